"""From recorded engine steps to a profile that tells host and GPU apart.

- `build.py` From recorded runs to a profile of version 2: the fit, how well it fits, and whence each number.
- `drafting.py` What proposing drafts behind a step costs: the GPU's work on it, and launching it.
- `drift.py` What the host's work takes on an average host, from runs whose host drifted.
- `flow.py` How the steps of a recorded run followed each other: which overlapped, and what that lets one see.
- `front_end.py` What stands between client and scheduler: how long a request takes in, and its tokens take out.
- `hidden.py` GPU work and launches of runs whose logs tell neither when launches ended nor what the GPU worked.
- `host.py` What scheduling a step and handing out its tokens cost the host.
- `noise.py` How the host's speed varies: a common factor that comes and goes, and what each launch adds by itself.
- `robust.py` Least squares that one hiccup of a host does not decide: non-negative, relative, with Huber's weights.
- `work.py` What the GPU works in a step, and what launching it costs the host: one fit for both.
"""
