"The floors of the house: a module may import from its own floor or from one below, never from one above."

FLOORS = {
    "world": 0, "viz": 0, "stats": 0, "chair": 0, "pope": 0, "noise": 0, "pairs": 0, "loss": 0,
    "vlm": 1, "client": 1,
    "shift": 2, "inject": 2, "branches": 2, "attention": 2, "judge": 2, "choice": 2,
    "train": 3, "pretrain": 3, "report": 3,
    "run": 4, "trials": 4,
    "cli": 5, "check": 5,
}
