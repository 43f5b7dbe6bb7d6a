import argparse, os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
parser = argparse.ArgumentParser(prog="python -m bench", description="How fast training is, against others on the same work.")
verbs = parser.add_subparsers(dest="verb", required=True)
for verb, text in (("train", "step by step against TRL and the released algorithm"), ("scale", "how cost grows with the work, and what that means for large runs")):
    one = verbs.add_parser(verb, help=text)
    one.add_argument("--json", help="also write the numbers to this file")
    one.add_argument("--rounds", type=int, help="how often each is measured")
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--quick", action="store_true", help="the LLaVA-proportioned model only, in under two minutes" if verb == "train" else "fewer points")
args = parser.parse_args()

import logging, warnings   # noqa: E402
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
if args.verb == "train": from bench.train import main
else: from bench.scale import main
main(args)
