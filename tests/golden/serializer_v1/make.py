"""Write the golden files that don't exist yet; those that do are never touched. The one of pydantic needs pydantic."""

from pathlib import Path

from tests.golden.serializer_v1.models import ITEM, Item
from tests.golden.serializer_v1.values import VALUES, serializer

FOLDER = Path(__file__).parent


def main() -> None:
    known = serializer()
    known.register(Item, "golden.Item")
    for name, value in {**VALUES, "model": ITEM}.items():
        path = FOLDER / f"{name.replace(' ', '_')}.bin"
        if not path.exists():
            path.write_bytes(known.dumps(value))
            print("wrote", path.name)


if __name__ == "__main__":
    main()
