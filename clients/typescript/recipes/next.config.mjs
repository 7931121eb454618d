/** @type {{ rewrites: () => Promise<{ source: string, destination: string }[]> }} */
const config = {
  async rewrites() {
    const service = process.env["API_URL"];
    return [
      { source: "/api/messages/:path*", destination: `${service}/api/messages/:path*` },
      { source: "/api/profile", destination: `${service}/api/profile` },
    ];
  },
};

export default config;
