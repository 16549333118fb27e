"""Where providers call back to: a path that cannot be guessed, for the account or for a single attempt."""

from cualify_shared.signing import keyed_hash, same_secret


class CallbackUrls:
    """`{public_url}/callbacks/{provider}/{token}` for an account, `…/{its own token}/{ref}` for an attempt."""

    def __init__(self, *, public_url: str, token: str) -> None:
        self._public_url, self._token = public_url.rstrip("/"), token

    def of(self, provider: str, ref: str) -> str:
        """An attempt's own address. Whoever knows it can speak of no other attempt."""
        return f"{self._public_url}/callbacks/{provider}/{self._token_of(provider, ref)}/{ref}"

    def as_given(self, path: str) -> str:
        """The address that the provider was given, and that it signs, whatever proxies stand before us."""
        return self._public_url + path

    def may_speak(self, *, provider: str, token: str, ref: str | None) -> bool:
        """Whether the token is the account's, or that attempt's."""
        return same_secret(token, self._token if ref is None else self._token_of(provider, ref))

    def _token_of(self, provider: str, ref: str) -> str:
        return keyed_hash(key=self._token.encode(), text=f"callback:{provider}:{ref}")[:16].hex()
