"""How fast training is, against others on the same work, and how fast scores are counted.

    python -m bench train [--quick] [--json FILE]     step by step against TRL and the released algorithm
    python -m bench scale [--quick] [--json FILE]     how the cost grows with the work
    python -m bench scores [--quick] [--json FILE]    5,000 captions and 9,000 answers, from files to numbers
    python -m bench page                              bench/results/*.json as a page for people
"""
