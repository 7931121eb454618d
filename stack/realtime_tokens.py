"""Who a token or API key speaks for, with the refusals of Realtime."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import jwt.types

Claims = dict[str, Any]
API_ROLES = ("anon", "authenticated", "service_role")
FAR_S = 10 * 365 * 86_400.0
# Realtime checks the signature, `exp` and `role`, nothing else.
UNCHECKED: jwt.types.Options = {
    "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False, "verify_iss": False,
    "verify_sub": False, "verify_jti": False,
}  # fmt: skip


class Refused(Exception):
    """A refusal in the words of Realtime: `code` (as in `Unauthorized: ...`) and `text`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text


def expired(claims: Claims) -> Refused | None:
    """The refusal of claims whose time is over."""
    over_s = time.time() - float(claims["exp"])
    return Refused("InvalidJWTToken", f"Token has expired {int(over_s)} seconds ago") if over_s >= 0 else None


class Tokens:
    """The project's secrets. `signing_jwk` is the private key of STACK_JWT_ALG=ES256, or empty."""

    def __init__(self, jwt_secret: str, publishable_key: str, secret_key: str, signing_jwk: str = "") -> None:
        self.secret = jwt_secret
        # The gateway of a hosted project turns the new kind of key into a JWT with the role it stands for.
        self.keys = {publishable_key: "anon", secret_key: "service_role"}
        self.public: dict[str, jwt.PyJWK] = {}
        if signing_jwk:
            parts = json.loads(signing_jwk)
            parts.pop("d", None)
            self.public[parts["kid"]] = jwt.PyJWK(parts)

    def claims(self, token: str) -> Claims:
        """The claims of a JWT or an `sb_*` key. Raises Refused."""
        if role := self.keys.get(token):
            return {"role": role, "iss": "supabase", "exp": int(time.time() + FAR_S)}
        try:
            head = jwt.get_unverified_header(token)
            algorithm, key_id = str(head.get("alg")), head.get("kid")
        except (jwt.InvalidTokenError, ValueError) as error:
            raise Refused("MalformedJWT", "The token provided is not a valid JWT") from error
        unsigned = Refused("JwtSignatureError", "Failed to validate JWT signature")
        key: Any = None
        if algorithm in ("HS256", "HS384", "HS512"):
            key = self.secret
        elif (found := self.public.get(str(key_id))) and found.algorithm_name == algorithm:
            key = found.key
        if not key:
            raise unsigned
        try:
            claims: Claims = jwt.decode(token, key, algorithms=[algorithm], options=UNCHECKED)
        except (jwt.InvalidTokenError, ValueError) as error:
            raise unsigned from error
        number = isinstance(claims.get("exp"), int | float) and not isinstance(claims.get("exp"), bool)
        if not number or not isinstance(claims.get("role"), str):
            raise Refused("InvalidJWTToken", "Fields `role` and `exp` are required in JWT")
        if claims["role"] not in API_ROLES:
            # Where Realtime asks the policies as that role, the roles of administrators would see everything.
            raise Refused("Unauthorized", "The role of the token is none of the API's")
        if over := expired(claims):
            raise over
        return claims
