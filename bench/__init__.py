"""How fast training is and how much memory it takes, against others on the same work, and how fast scores are counted.

    python -m bench train [--quick] [--json FILE]     step by step against TRL and the released algorithm
    python -m bench scale [--quick] [--json FILE]     how the cost grows with the work
    python -m bench memory [--quick] [--json FILE]    one step of stage 2, packed and plain, checkpointed and not
    python -m bench gpu [--quick] [--json FILE]       LLaVA-1.5-7B's shape on a GPU, smaller cards by a cap of memory
    python -m bench rehearse [--quick] [--json FILE]  both stages of five models, counted on tensors without content
    python -m bench pairs [--quick] [--json FILE]     memory and time of reading up to a million pairs
    python -m bench scores [--quick] [--json FILE]    5,000 captions and 9,000 answers, from files to numbers
    python -m bench page                              bench/results/*.json as a page for people
"""
