import type { SupabaseClient } from "@supabase/supabase-js";
import { getProfile, updateProfile } from "../lib/api/messages.ts";

/** PNG, JPEG or WebP up to 1 MiB, below a folder of one's own id; a new name each time, so no cache shows the old one. */
export async function changePicture(supabase: SupabaseClient, myId: string, picture: Blob) {
  const avatars = supabase.storage.from("avatars");
  const publicUrl = (path: string) => avatars.getPublicUrl(path).data.publicUrl;
  const before = (await getProfile()).profile.avatarUrl;

  const path = `${myId}/${crypto.randomUUID()}`;
  const { error } = await avatars.upload(path, await picture.arrayBuffer(), { contentType: picture.type });
  if (error) throw error;
  const { profile } = await updateProfile({ avatarUrl: publicUrl(path) });

  const folder = publicUrl(`${myId}/`);
  if (before?.startsWith(folder)) await avatars.remove([`${myId}/${before.slice(folder.length)}`]);
  return profile;
}

export const rename = (displayName: string) => updateProfile({ displayName });
