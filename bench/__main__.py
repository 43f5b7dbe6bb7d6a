import argparse, logging, os, warnings

import bench


def arguments():
    parser = argparse.ArgumentParser(prog="python -m bench", description=bench.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, quick in (("train", "the LLaVA-proportioned model only, in under two minutes"),
                        ("scale", "fewer points"),
                        ("gpu", "this card, and a T4 with 4-bit weights, in under eight minutes"),
                        ("rehearse", "the smallest model only"),
                        ("memory", "one pair"), ("pairs", "up to 100,000"), ("scores", "one round")):
        one = verbs.add_parser(verb)
        one.add_argument("--quick", action="store_true", help=quick)
        one.add_argument("--json", help="also write the numbers to this file")
        one.add_argument("--rounds", type=int, help="how often each is measured")
    verbs.add_parser("page")
    return parser.parse_args()


def main(args):
    # one thread: then CPU time is the time of the work
    os.environ.update(HF_HUB_OFFLINE="1", OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if args.verb == "train": from bench.train import main
    elif args.verb == "scale": from bench.scale import main
    elif args.verb == "gpu": from bench.gpu import main
    elif args.verb == "rehearse": from bench.rehearse import main
    elif args.verb == "memory": from bench.memory import main
    elif args.verb == "pairs": from bench.pairs import main
    elif args.verb == "scores": from bench.scores import main
    else: from bench.page import main
    main(args)


if __name__ == "__main__": main(arguments())
