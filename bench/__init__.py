"""How fast training is, against others on the same work.

    python -m bench train [--quick] [--json FILE]     step by step against TRL and the released algorithm
    python -m bench scale [--quick] [--json FILE]     how the cost grows with the work
    python -m bench page                              bench/results/*.json as a page for people
"""
