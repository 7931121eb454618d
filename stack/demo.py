"""The part of the demo data that SQL cannot write (a picture in Storage), and the words `make run` prints."""

from __future__ import annotations

import struct
import urllib.request
import zlib
from collections.abc import Mapping

import psycopg

from stack.console import say

# The password of every demo person in supabase/seed.sql; for an address only this machine can reach.
PASSWORD = "demo-password"  # noqa: S105
PICTURED = "00000000-0000-4000-8000-00000000000a"
SIDE_PX = 64


def picture(side_px: int = SIDE_PX) -> bytes:
    """A small PNG: a light disc on a blue square."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    middle, radius = (side_px - 1) / 2, side_px * 0.36
    rows = bytearray()
    for y in range(side_px):
        rows.append(0)
        for x in range(side_px):
            inside = (x - middle) ** 2 + (y - middle) ** 2 <= radius**2
            rows += bytes((235, 242, 250)) if inside else bytes((52, 101, 164))
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(rows), 9))
        + chunk(b"IEND", b"")
    )


def store_avatar(supabase_url: str, secret_key: str, database_url: str) -> None:
    """Upload the picture through the Storage API and name it in the profile, unless that is done. Repeatable.

    Done again when the stack moves to another port, because the profile holds an absolute URL.
    """
    path = f"avatars/{PICTURED}/avatar.png"
    url = f"{supabase_url}/storage/v1/object/public/{path}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute("select avatar_url from public.profiles where user_id = %s", (PICTURED,)).fetchone()
        if row is None or row[0] == url:
            return
        upload = urllib.request.Request(
            f"{supabase_url}/storage/v1/object/{path}",
            data=picture(),
            method="POST",
            headers={
                "apikey": secret_key,
                "Authorization": f"Bearer {secret_key}",
                "Content-Type": "image/png",
                "x-upsert": "true",
            },
        )
        try:
            urllib.request.urlopen(upload, timeout=10).close()
        except OSError as error:
            say(f"the demo picture could not be stored: {error}")
        else:
            connection.execute("update public.profiles set avatar_url = %s where user_id = %s", (url, PICTURED))


def welcome(environment: Mapping[str, str], database_url: str, *, with_service: bool) -> str:
    """Addresses, keys, demo accounts and a first request to paste."""
    with psycopg.connect(database_url) as connection:
        people = connection.execute(
            "select u.id::text, u.email, coalesce(p.display_name, '(no profile)') from auth.users as u"
            " left join public.profiles as p on p.user_id = u.id"
            " where u.raw_app_meta_data ->> 'demo' = 'true' order by u.id"
        ).fetchall()
    lines = ["", "Running. Ctrl-C stops everything and keeps the data.", ""]
    if with_service:
        lines += [f"  The service      {environment['API_URL']}   (documentation: {environment['API_URL']}/docs)"]
    lines += [
        f"  Supabase URL     {environment['SUPABASE_URL']}",
        f"  Publishable key  {environment['SUPABASE_PUBLISHABLE_KEY']}",
        f"  Secret key       {environment['SUPABASE_SECRET_KEY']}",
        f"  Database         {environment['DATABASE_URL']}",
        "  All of it as NAME=value lines: make env",
    ]
    if people:
        lines += ["", f"  Demo people, password {PASSWORD}:"]
        lines += [f"    {email:<22} {name:<16} {person_id}" for person_id, email, name in people]
    if people and with_service:
        person_id, email, _ = people[0]
        lines += [
            "",
            "  A first request: sign in, then read the inbox.",
            "",
            f"TOKEN=$(curl -s '{environment['SUPABASE_URL']}/auth/v1/token?grant_type=password' \\",
            f"  -H 'apikey: {environment['SUPABASE_PUBLISHABLE_KEY']}' -H 'Content-Type: application/json' \\",
            f'  -d \'{{"email": "{email}", "password": "{PASSWORD}"}}\' \\',
            "  | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"access_token\"])')",
            f'curl -s {environment["API_URL"]}/api/messages/conversations -H "Authorization: Bearer $TOKEN" \\',
            f"  -H 'Content-Type: application/json' -d '{{\"userId\": \"{person_id}\"}}'",
            "",
        ]
    return "\n".join(lines)
