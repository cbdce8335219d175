# Generated from ../_async/graph_recall.py by tests/unasync.py: edit that one.
"""What nodes mean: an embedding of each, stored beside it, and the nodes whose embeddings point as a given one does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from persistence import Database
from persistence.errors import FOREIGN_KEY_VIOLATION, ForeignKeyError, ValidationError
from persistence.validation import check_limit, shown
from sessions._sync.graph_base import GraphBase
from sessions.embeddings import as_embedding
from sessions.graph import BATCH, Found, node_id, type_name
from sessions.graph_rows import node_from_row
from sessions.item_batches import scores


class GraphRecall(GraphBase):
    """The part of the memory graph that recalls by meaning."""

    def set_embeddings(self, embeddings: Mapping[str, Sequence[float]]) -> None:
        """Store what nodes, by id, were embedded as (float32), in place of earlier ones, all or none, up to 10,000.

        An embedding stays until the next one or the node's end, also when the attributes change: who writes a node
        embeds it anew, in the same transaction if it must not lag behind. It tells nothing that the node doesn't, so it
        takes no approval.

        Raises:
            CapabilityError: the PostgreSQL server has no pgvector to compare them, nor may it be created.
            ForeignKeyError: one of the nodes isn't there; nothing was written.
            NotPermittedError: the policy of the scope doesn't allow it.
            ValidationError: one is no list of finite numbers.
        """
        if not isinstance(cast(object, embeddings), Mapping) or not 1 <= len(embeddings) <= BATCH:
            raise ValidationError(f"embeddings is no mapping of 1 to {BATCH:,} ids")
        vectors = {
            node_id(id): as_embedding(value, f"the embedding of {shown(id)}") for id, value in embeddings.items()
        }
        self._may_change()
        database = self._database()
        self._ensure_vector(database)
        try:
            missing = self._put_vectors(database, vectors)
        except ForeignKeyError as exc:
            raise self._unknown("one of the nodes is gone", exc.code) from exc
        if missing is not None:
            raise self._unknown(f"there is no node {shown(missing)}")

    def _put_vectors(self, database: Database, vectors: dict[str, np.ndarray[Any, Any]]) -> str | None:
        """Store vectors, and return the first id that has no node; then nothing was stored."""
        ids = json.dumps(list(vectors))
        if database.kind == "postgresql":
            texts = ["{" + ",".join(map(str, vector.tolist())) + "}" for vector in vectors.values()]
            values = {"ids": list(vectors), "vectors": texts}
            if database.fetch_value(*self._prepared(database, "graph_put_vectors", values)):
                return None
            return cast("str | None", self._read_value("graph_missing_nodes", {"ids": ids}))
        with database.transaction():
            missing = cast("str | None", self._read_value("graph_missing_nodes", {"ids": ids}))
            if missing is None:
                for id, vector in vectors.items():
                    self._change("graph_put_vectors", {"id": id, "embedding": vector.tobytes()})
        return missing

    def recall(self, embedding: Sequence[float], *, type: str | None = None, limit: int = 20) -> list[Found]:
        """Return the nodes whose embeddings point most as this one does, at most ``limit`` (up to 10,000).

        The score is the cosine, from 1 for the same direction to -1. It is exact: every embedding of the scope of that
        many dimensions is looked at, by pgvector on PostgreSQL, by numpy on SQLite. Nodes without one are not found.

        Raises:
            CapabilityError: the PostgreSQL server has no pgvector, nor may it be created.
            ValidationError: it has another length than all embeddings that it could be compared with.
        """
        vector = as_embedding(embedding, "the embedding")
        values: dict[str, Any] = {"type": type_name(type), "limit": check_limit(limit)}
        self._may_read()
        database = self._database()
        if database.kind != "postgresql":
            return self._recall_here(vector, values)
        self._ensure_vector(database)
        values |= {"vector": "[" + ",".join(map(str, vector.tolist())) + "]", "dimensions": len(vector)}
        rows = database.fetch_all(*self._prepared(database, "graph_recall", values))
        if not rows:
            found = database.fetch_all(*self._prepared(database, "graph_vector_lengths", values))
            self._check_length(len(vector), [row["length"] for row in found])
        return [Found(node_from_row(row, database.dialect), float(row["score"])) for row in rows]

    def _recall_here(self, vector: np.ndarray[Any, Any], values: dict[str, Any]) -> list[Found]:
        rows = self._read_all(_vector_from_row, "graph_vectors", {"type": values["type"]})
        self._check_length(len(vector), sorted({len(embedding) // 4 for _, embedding in rows}))
        near = scores("cosine", vector.tolist(), [embedding for _, embedding in rows])
        ranked = [(-score, id) for (id, _), score in zip(rows, near, strict=True) if score is not None]
        best = {id: -score for score, id in sorted(ranked)[: values["limit"]]}
        if not best:
            return []
        found = self._read_all(node_from_row, "graph_get_nodes", {"ids": json.dumps(list(best))})
        by_id = {node.id: node for node in found}
        return [Found(by_id[id], score) for id, score in best.items() if id in by_id]

    def _check_length(self, length: int, stored: list[int]) -> None:
        """Refuse an embedding that none of those stored can be compared with; with none stored, nothing is found."""
        if stored and length not in stored:
            raise ValidationError(
                f"the embedding has {length:,} numbers, those of the scope {self._scope} have "
                + " or ".join(f"{each:,}" for each in stored[:5]),
                hint="ask with an embedding of the model that the nodes were embedded by",
                operation="recall",
                connection=self._name,
            )

    def _unknown(self, message: str, code: str | None = FOREIGN_KEY_VIOLATION) -> ForeignKeyError:
        return ForeignKeyError(
            f"{message} in the scope {self._scope}",
            hint="add_node() first",
            operation="set_embeddings",
            connection=self._name,
            code=code,
        )


def _vector_from_row(row: dict[str, Any], dialect: object) -> tuple[str, bytes]:
    return row["id"], row["embedding"]
