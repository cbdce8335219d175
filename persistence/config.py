"""Connection settings: frozen, checked as a whole on construction, and silent about secrets.

Every class takes keyword arguments, a URL (``from_url``) or environment variables (``from_env``). All problems of a
configuration are reported at once, in one :class:`~persistence.errors.ConfigError`. Durations are seconds, a
``timedelta`` or text such as ``"250ms"``, ``"30s"``, ``"5m"``, ``"1h"``, ``"7d"``.
"""

from __future__ import annotations

from persistence.config_base import Config
from persistence.config_postgresql import Metric, PgVectorConfig, PostgreSQLConfig
from persistence.config_redis import RedisConfig
from persistence.config_sqlite import SQLiteConfig

__all__ = ["Config", "Metric", "PgVectorConfig", "PostgreSQLConfig", "RedisConfig", "SQLiteConfig"]
