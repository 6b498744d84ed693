"""How what is known about answers is shown."""

from decoding_evals.showing.view import table_view
from decoding_evals.uncertainty.tables import evaluation_tables, prompt_lines

PROMPT = table_view("uncertainty", "greedy samples estimators", prompt_lines)
EVALUATION = table_view("uncertainty-evaluation", "correct_by evaluation", evaluation_tables)
VIEWS = (PROMPT, EVALUATION)
