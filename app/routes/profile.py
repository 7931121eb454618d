"""One's own profile."""

from typing import Annotated

from litestar import get, patch
from litestar.params import JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType

from app import problems
from app.shapes import Profile
from app.text import VISIBLE
from app.wire import ApiRequest, Reply, changes


class OwnProfile(Profile, frozen=True, rename="camel"):
    """The card, and what only its owner sees."""

    locale: Annotated[str | None, Meta(description="BCP 47 language tag.")]
    private_reading: Annotated[bool, Meta(description="Others are not told how far one has read.")]
    hides_last_seen: Annotated[
        bool, Meta(description="Nobody is told when one was last here, nor is one told of others.")
    ]


class ProfileAnswer(Struct, frozen=True):
    """One's own profile."""

    profile: OwnProfile


@get("/", operation_id="getProfile", opt=problems.answers(ProfileAnswer, {200: "The caller's own profile."}))
async def get_profile(request: ApiRequest) -> Reply:
    """Read one's own profile."""
    return Reply(await request.supabase.rpc("get_profile", {}, request.user, ProfileAnswer, repeatable=True))


# As SQL asks for them. It also takes one's own object over plain http, which only a development machine has.
_HTTPS = r"^https://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[!-~]*)?$"
_LANGUAGE = r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}$"


class UpdateProfile(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What to change; what is left out stays."""

    display_name: Annotated[
        Annotated[str, Meta(min_length=1, extra_json_schema={"pattern": VISIBLE})] | UnsetType,
        Meta(description="1 to 80 code points on one line, after normalisation."),
    ] = UNSET
    avatar_url: Annotated[
        Annotated[str, Meta(max_length=2048, extra_json_schema={"pattern": _HTTPS})] | UnsetType | None,
        Meta(description="An https URL, the public URL of one's own object in the bucket `avatars`, or null."),
    ] = UNSET
    locale: Annotated[
        Annotated[str, Meta(max_length=35, extra_json_schema={"pattern": _LANGUAGE})] | UnsetType | None,
        Meta(description="BCP 47 language tag, or null."),
    ] = UNSET
    private_reading: bool | UnsetType = UNSET
    hides_last_seen: bool | UnsetType = UNSET


@patch(
    "/",
    operation_id="updateProfile",
    status_code=200,
    opt=problems.answers(ProfileAnswer, {200: "The profile as it is now."}, "text_rejected", *problems.WITH_BODY),
)
async def update_profile(data: JSONBody[UpdateProfile], request: ApiRequest) -> Reply:
    """Change one's own profile."""
    params = {"p_changes": changes(data)}
    return Reply(await request.supabase.rpc("update_profile", params, request.user, ProfileAnswer, repeatable=True))
