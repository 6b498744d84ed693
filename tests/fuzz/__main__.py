"""`python -m fuzz rows` and `python -m fuzz commands`; `--only N` repeats one case of a seed."""

import argparse
import shlex
import sys
import time
import warnings
from collections import Counter

import numpy as np
import torch


def main():
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("what", choices=["rows", "commands"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000, help="rows, or command lines")
    parser.add_argument("--only", type=int, help="one case, by its number")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    run = of_rows if options.what == "rows" else of_commands
    found = run(options.seed, options.count, options.only)
    print(f"{found} findings in {time.monotonic() - began:.0f} s, seed {options.seed}")
    sys.exit(found > 0)


def of_rows(seed, count, only):
    from fuzz.rows import Finding, check

    warnings.simplefilter("error", RuntimeWarning)
    found = done = cases = 0
    while done < count:
        number = cases if only is None else only
        cases += 1
        try:
            done += check(np.random.default_rng([seed, number]))
        except Finding as finding:
            found += 1
            done += 1
            print(f"--seed {seed} --only {number}: {finding}", flush=True)
            if only is not None:
                raise
        if only is not None:
            break
    print(f"{done:,} rows in {cases:,} cases")
    return found


def of_commands(seed, count, only):
    from fuzz.grammar import Grammar
    from fuzz.running import RECORDED, SLOWLY, run, warmed
    from fuzz.verdict import faults

    found, codes = 0, Counter()
    with warmed(RECORDED + SLOWLY) as recorded:
        grammar = Grammar(recorded)
        for number in range(count) if only is None else [only]:
            case = grammar.case(seed, number)
            began = time.monotonic()
            ran = run(case)
            took = time.monotonic() - began
            codes[case.arguments[0], ran.code] += 1
            wrong = faults(case, ran)
            found += bool(wrong)
            if wrong or only is not None:
                print(
                    f"--seed {seed} --only {number}: {shlex.join(case.arguments)!r}, {took:.1f} s"
                )
            for one in wrong:
                print(f"    {one[:600]}", flush=True)
            if only is not None:
                show(case, ran)
    for (command, code), times in sorted(codes.items(), key=str):
        print(f"{times:7,}  {command:12} exit code {code}")
    return found


def show(case, ran):
    """Everything about one case."""
    for name, content in {"(standard input)": case.stdin, **case.files}.items():
        print(f"{name}: {content[:2000]!r}")
    print(f"exit code {ran.code}")
    print(ran.out.decode(errors="replace") + ran.err.decode(errors="replace"))


if __name__ == "__main__":
    main()
