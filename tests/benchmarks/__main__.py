"""``python -m tests.benchmarks [name …] [--option …]``: run the named benchmarks, or all; each gets the options."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from inspect import signature

from tests import benchmarks

modules = [each.name for each in pkgutil.iter_modules(benchmarks.__path__) if not each.ispkg]
names = [name for name in modules if name not in ("__main__", "measure")]
options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
chosen = [argument for argument in sys.argv[1:] if argument not in options] or names
unknown = sorted(set(chosen) - set(names))
if unknown:
    sys.exit(f"no benchmark is named {', '.join(unknown)}; there are: {', '.join(names)}")
for name in chosen:
    print(f"== {name}")
    main = importlib.import_module(f"tests.benchmarks.{name}").main
    sys.argv = [name, *options]
    if signature(main).parameters:
        main(options)
    else:
        main()
