"""Secrets of webhooks and the signatures made with them (Standard Webhooks).

No secret is stored: each is an HMAC of the webhook's id and version under the service's secret.
"""

import base64
import hashlib
import hmac
from datetime import datetime

from standardwebhooks import Webhook as Signer

from app.tables.webhooks import Webhook

PREFIX = "whsec_"


def secret_of(webhook: Webhook, pepper: str, version: int | None = None) -> str:
    """`whsec_` and 256 bits in base64. version: the newest by default."""
    name = f"secateur webhook\0{webhook.id}\0{version or webhook.secret_version}"
    key = hmac.new(pepper.encode(), name.encode(), hashlib.sha256).digest()
    return PREFIX + base64.b64encode(key).decode()


def live_secrets(webhook: Webhook, pepper: str, now: datetime) -> list[str]:
    """Those that sign now, the newest first."""
    until = webhook.previous_secret_until
    before = [webhook.secret_version - 1] if until is not None and until > now else []
    return [secret_of(webhook, pepper, version) for version in (webhook.secret_version, *before)]


def signed_headers(id: str, body: str, secrets: list[str], now: datetime) -> dict[str, str]:
    """The three headers of Standard Webhooks, with one signature a secret. now: aware, in UTC."""
    signatures = [Signer(secret).sign(id, now, body) for secret in secrets]
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
