/** @type {{ rewrites: () => Promise<{ source: string, destination: string }[]> }} */
const config = {
  async rewrites() {
    const service = process.env["API_URL"];
    return [
      { source: "/api/messages/:path*", destination: `${service}/api/messages/:path*` },
      { source: "/api/users/:path*", destination: `${service}/api/users/:path*` },
      { source: "/api/moderation/:path*", destination: `${service}/api/moderation/:path*` },
      { source: "/api/profile", destination: `${service}/api/profile` },
    ];
  },
};

export default config;
