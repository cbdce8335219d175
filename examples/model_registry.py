"""A registry of models that moves from a table to keys and values while the program goes on changing it.

    python examples/model_registry.py

A DualWrite stands in front of both stores. The move has four phases, a comparison before the switch, and a way back.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from persistence import (
    ConflictError,
    DatabaseManager,
    DualWrite,
    KeyedEntities,
    KeyedValues,
    KeyValueStore,
    Repository,
)


@dataclass(frozen=True)
class Model:
    """A model as the registry knows it."""

    id: str
    path: str
    port: int
    enabled: bool = True


def main() -> None:
    """Fill the table, move, switch, and look at both stores."""
    with tempfile.TemporaryDirectory() as folder, DatabaseManager() as manager:
        database = manager.add_sqlite("old", f"sqlite:///{Path(folder) / 'registry.db'}")
        manager.add_sqlite("new", f"sqlite:///{Path(folder) / 'values.db'}")  # PostgreSQL or Redis do as well
        database.execute("CREATE TABLE models (id TEXT PRIMARY KEY, path TEXT, port INTEGER, enabled INTEGER)")
        table = Repository(manager, "old", "models", Model)
        table.save_many(Model(f"model-{number}", f"/models/{number}.gguf", 8000 + number) for number in range(50))

        values = KeyedValues(KeyValueStore(manager, "new", namespace="models"))
        phases = KeyValueStore(manager, "old", namespace="moves")
        models = DualWrite("models", KeyedEntities(table), values, phases, cache_for=0.1)
        models.start()
        try:
            models.switch()
        except ConflictError as exc:
            print(f"refused: {exc.message}")
        with models.relay("new"), models.relay("old"):
            seen, after = 0, None
            while True:
                batch = models.backfill(batch=20, after=after)
                seen, after = seen + batch.seen, batch.after
                settings = {"path": "/models/7.gguf", "port": 9000 + seen, "enabled": True}
                models.put("model-7", {"id": "model-7", **settings})  # the program goes on
                if after is None:
                    break
            models.switch()
            print(f"{seen} models looked at, the phase is {models.phase()}")
            models.delete("model-9")
        assert models.get("model-7")["port"] == 9050
        models.relay("old").flush()
        assert not table.exists("model-9")  # the old store is still good, should we want to go back
        models.finish()
        print(f"the phase is {models.phase()}; the registry has {len(models.scan())} models")


if __name__ == "__main__":
    main()
