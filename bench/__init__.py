"""How fast training is and how much memory it takes, against others on the same work, and how fast scores are counted.

    python -m bench train [--quick] [--json FILE]     step by step against TRL and the released algorithm
    python -m bench scale [--quick] [--json FILE]     how the cost grows with the work
    python -m bench memory [--quick] [--json FILE]    one step of stage 2, packed and plain, with and without checkpointing
    python -m bench gpu [--quick] [--json FILE]       the day a GPU is there: 7B, smaller cards by a cap of memory, TRL beside ours
    python -m bench rehearse [--quick] [--json FILE]  both stages of five models at full size, counted on tensors without content
    python -m bench pairs [--quick] [--json FILE]     memory and time of reading up to a million pairs
    python -m bench scores [--quick] [--json FILE]    5,000 captions and 9,000 answers, from files to numbers
    python -m bench page                              bench/results/*.json as a page for people
"""
