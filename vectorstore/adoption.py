"""Tables of the user's own as collections: read through a view that gives them our columns, written as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from persistence.dialect import quote_identifier
from persistence.errors import CapabilityError, ConfigError, ValidationError
from persistence.validation import check_text
from vectorstore.schema import Shape, fill, relation

_COLUMNS = ("id", "content", "metadata", "embedding")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedTable:
    """A table of the user's own with the columns that hold documents; ``name`` may have a schema, ``"app.items"``.

    ``id`` is a text, whole number or uuid with a unique index, ``metadata`` a json or jsonb column. Its rows are the
    documents of one tenant, in the namespace ``default``; they have no source, no expiry, and are not searched by
    words. One without an embedding is found by no search. Give it indexes of your own for the keys that filters use.

    Raises:
        ValidationError: a name can't be one in SQL.
    """

    name: str
    id: str = "id"
    content: str = "content"
    metadata: str = "metadata"
    embedding: str = "embedding"

    def __post_init__(self) -> None:
        for part in (*self.name.split("."), self.id, self.content, self.metadata, self.embedding):
            quote_identifier(check_text("a name of an adopted table", part))
        if self.name.count(".") > 1:
            raise ValidationError(f"the table {self.name!r} has more than one dot", hint="schema.table")

    @property
    def quoted(self) -> str:
        """The table's name in SQL."""
        return ".".join(quote_identifier(part) for part in self.name.split("."))

    def record(self, types: Mapping[str, str], tenant: str) -> dict[str, str]:
        """Return what is remembered of it: its columns, their types, and whose documents they are."""
        kinds = {"id_type": types[self.id], "metadata_type": types[self.metadata]}
        return {**asdict(self), "table": self.quoted, **kinds, "tenant": tenant}

    def check(self, types: Mapping[str, str], shape: Shape) -> None:
        """Compare the table's columns with what the store was opened for.

        Raises:
            ConfigError: a column is missing, or the embeddings are others.
        """
        missing = [name for name in (self.id, self.content, self.metadata, self.embedding) if name not in types]
        if missing:
            raise ConfigError(f"the table {self.name!r} has no column {', '.join(map(repr, missing))}")
        found = types[self.embedding]
        if found not in (shape.type, shape.column):
            raise ConfigError(f"the embeddings of {self.name!r} are {found}, not {shape.column}")


def create_view(collection: str, row: Mapping[str, str]) -> str:
    """Return the statement that makes the view through which an adopted table is read."""
    identity, content, metadata, embedding = (quote_identifier(row[each]) for each in _COLUMNS)
    if row["id_type"] != "text":
        identity = f"CAST({identity} AS text)"
    tenant = row["tenant"].replace("\\", "\\\\").replace("'", "''")
    return (
        f"CREATE VIEW {quote_identifier(relation(collection))} AS SELECT CAST(E'{tenant}' AS text) AS tenant_id,"
        f" CAST('default' AS text) AS namespace, {identity} AS id, coalesce({content}, '') AS content,"
        f" coalesce(CAST({metadata} AS jsonb), '{{}}') AS metadata, {embedding} AS embedding,"
        f" CAST(NULL AS text) AS source, CAST(NULL AS timestamptz) AS expires_at,"
        f" CAST(NULL AS timestamptz) AS created_at, CAST(NULL AS timestamptz) AS updated_at,"
        f" CAST(NULL AS tsvector) AS words FROM {row['table']}"
    )


def writes(statements: Mapping[str, str], row: Mapping[str, str]) -> dict[str, str]:
    """Return the statements that write to an adopted table, by the names of those whose place they take."""
    places = {f"{each}_column": quote_identifier(row[each]) for each in _COLUMNS}
    places |= {"base": row["table"], "id_type": row["id_type"], "metadata_type": row["metadata_type"]}
    return {which: fill(statements[f"{which}_adopted"], places) for which in ("upsert", "update", "patch")}


def refuse(what: str, collection: str) -> CapabilityError:
    """Return the error of what an adopted table has no column for."""
    return CapabilityError(
        f"the collection {collection!r} is an adopted table, which has no {what}",
        hint="copy its documents to a collection of ours for that",
    )
