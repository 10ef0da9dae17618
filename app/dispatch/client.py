"""Asking the broker something directly; apart from broker.py, because the API must not import Celery for it."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def impatient_client(broker_url: str, seconds: float) -> redis.Redis:
    """A client that asks once and waits so long: the library's own retries wait for a frozen broker ten times."""
    return redis.Redis.from_url(
        broker_url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0)
    )


def is_up(broker_url: str, seconds: float = 2) -> bool:
    """Whether the broker answers."""
    client = impatient_client(broker_url, seconds)
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()
