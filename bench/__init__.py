"""How fast training is, against others on the same work.

    python -m bench train [--quick] [--json FILE]     step by step against TRL and the released algorithm
    python -m bench scale [--json FILE]               how cost grows, and what that means for large runs
"""
