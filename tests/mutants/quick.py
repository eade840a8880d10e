"""A pytest plugin for whoever runs the same tests hundreds of times: properties fail at their first counterexample, always the same one.

pytest -p tests.mutants.quick --hypothesis-profile=quick
"""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile("quick", phases=(Phase.explicit, Phase.generate), derandomize=True, database=None, deadline=None)
