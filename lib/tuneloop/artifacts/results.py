"""What each stage counts and finds out: the typed counts and results of its record.

A stage builds these models and puts them into its record. Readers get them back with
`Record.counts_as` and `Record.results_as`. Keys of a newer tuneloop are ignored.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RecordPart(BaseModel):
    """Base class of counts and results."""

    # Built when they are first used: `python -m jobs --help` needs none of them.
    model_config = ConfigDict(frozen=True, defer_build=True)


class ExportCounts(RecordPart):
    """Counts of the export stage; traces = examples + validation_examples + excluded."""

    traces: int
    """Traces read from the dataset."""
    shards: int
    """Shards of output files."""
    examples: int
    """Training examples written."""
    validation_examples: int
    """Validation examples written."""
    excluded: int
    """Traces that gave no example."""
    excluded_contaminated: int
    excluded_duplicate: int
    excluded_empty_response: int
    excluded_filtered: int
    excluded_invalid: int
    excluded_near_duplicate: int
    excluded_no_trainable_tokens: int
    excluded_not_renderable: int = 0
    excluded_over_length: int
    truncated: int
    """Examples that lost steps because they were too long."""
    contaminated_kept: int
    """Examples that overlap the eval set and were kept."""


class Contamination(RecordPart):
    """What the export found of the eval set in the training set."""

    policy: str
    """The export's option `contamination`."""
    prompts_sha256: list[str] = []
    """Digests of the prompts of each eval set that was looked for; empty if nothing was."""
    excluded: int
    """Traces excluded because they overlap the eval set."""
    kept: int
    """Examples that overlap the eval set and were kept."""


class Histogram(RecordPart):
    """A histogram of lengths."""

    edges: list[float]
    """Limits of the bins; one more than counts."""
    counts: list[int]
    """Examples in each bin."""


class LengthSummary(RecordPart):
    """Lengths of all examples, by one measure."""

    mean: float
    quantiles: dict[str, int]
    """min, p50, p90, p99, max."""
    histogram: Histogram


class ExportResults(RecordPart):
    """Results of the export stage."""

    contamination: Contamination
    lengths: dict[str, LengthSummary]
    """Measure, such as `prompt_characters` -> its summary."""


class TrainCounts(RecordPart):
    """Counts of the train stage."""

    examples: int
    """Examples read."""
    tokens: int
    """Tokens of all rows."""
    trained_tokens: int
    """Tokens that the loss covers."""
    longest_tokens: int
    """Tokens of the longest row."""
    longest_response_tokens: int
    """Tokens of the longest response, end of turn included."""
    vocab_size: int
    """Pieces of the tokenizer."""
    parameters: int
    """Parameters of the model."""
    steps: int
    """Optimizer updates."""
    resumed_from_step: int
    """Step of the checkpoint that this process started from; 0 for none."""
    continued_from_step: int = 0
    """Steps of the earlier run that this run continues; 0 for none."""
    validation_examples: int = 0
    """Validation examples; 0 without validation."""
    kept_step: int = 0
    """Step whose weights are the tuned model: the last one, or the one with the lowest validation
    loss."""


class ParityResult(RecordPart):
    """How a published model, read again, compares with the one in memory."""

    reader: str
    """`tuneloop`, another program with its version, or `adapter`: the files of the adapter, added
    to the base and compared with the merged weights."""
    dtype: str
    """Dtype that both sides computed in."""
    max_difference: float
    """Largest absolute difference of two logits; for an adapter, of two weights."""
    limit: float
    """Largest difference that passes."""
    greedy_equal: int | None = None
    """Greedy tokens that are equal, of 16; null for an adapter."""


class TrainResults(RecordPart):
    """Results of the train stage."""

    loss_first: float
    """Loss of the first step, nats per response token."""
    loss_last: float
    """Loss of the last step."""
    validation_loss_first: float | None = None
    """Validation loss before the first step, nats per response token; null without validation."""
    validation_loss_last: float | None = None
    """Validation loss after the last step."""
    validation_loss_best: float | None = None
    """Lowest validation loss after a step."""
    best_step: int | None = None
    """First step with the lowest validation loss."""
    stopped_early: bool = False
    """Whether training ended before its last step, because validation did not improve."""
    base_digest: str
    """Digest of the base model's weights, as in its manifest."""
    tuned_digest: str
    """Digest of the tuned model's weights, as in its manifest."""
    base_model_digest: str = ""
    """Digest of the base model's weights, tokenizer and settings; empty in older records."""
    tuned_model_digest: str = ""
    """Digest of the tuned model's weights, tokenizer and settings; empty in older records."""
    checkpoints: dict[int, str] = {}
    """Step of `train.keep_checkpoints` -> digest of its weights; with adapters, of base and
    adapter."""
    parity: list[ParityResult] = []
    """What each reader found that read the published model again."""


class EvalCounts(RecordPart):
    """Counts of the eval stage."""

    items: int
    """Items of the required eval sets. The other counts are of answers: a set with several samples
    has more of them than items."""
    base_correct: int
    base_no_answer: int
    tuned_correct: int
    tuned_no_answer: int
    regressions: int
    """Items that only the base model answered correctly."""
    guard_items: int = 0
    """Questions of the guard set; 0 if there is none."""
    guard_base_correct: int = 0
    """Guarded questions that the base model answered correctly."""
    guard_tuned_correct: int = 0
    """Guarded questions that the tuned model answered correctly."""
    guard_kept: int = 0
    """Guarded questions that both models answered correctly."""
    not_asked: int = 0
    """Items that were not asked, because the result was decided."""


class NoiseFloor(RecordPart):
    """How many answers of the tuned model changed when it was asked again in other batches."""

    answers: int
    """Questions that were asked again."""
    changed: int
    """Answers with another text; with the same weights, the same question and the same seed."""
    flipped: int | None = None
    """Those of them with another strict score; null if it is not known."""
    set: str | None = None
    """Name of the eval set of the questions; null in older records."""


class EvalResults(RecordPart):
    """Results of the eval stage."""

    accuracy_base: float
    """Accuracy of the base model with the prompt of `base_examples`, 0 to 1."""
    accuracy_tuned: float
    """Accuracy of the tuned model, 0 to 1."""
    by_category: dict[str, tuple[float, float]]
    """Category -> accuracy of base and of tuned model."""
    verdict: str
    """improved, regressed, or no detectable difference."""
    gain_low: float | None = None
    """Lower end of the 95 % interval of the gain, -1 to 1; null in older records."""
    gain_high: float | None = None
    """Upper end of that interval."""
    base_examples: int = 0
    """Training examples in the base model's prompt that the verdict compares with."""
    by_base_examples: dict[int, float] = {}
    """Training examples in the base model's prompt -> its accuracy, if it was asked repeatedly."""
    guard_kept_low: float | None = None
    """Lower end of the 95 % interval of the guarded questions' kept share; null without guard."""
    guard_kept_high: float | None = None
    """Upper end of that interval."""
    random_weights: bool = False
    """Whether the base model has random weights."""
    noise: NoiseFloor | None = None
    """Noise floor of the answers; null where no answer depends on its batch, as on a CPU."""
    answered_by: dict[str, str] = {}
    """Name of each model that a server answered for -> its name on the server, with the address and
    the version that the server reported."""


class SampleCounts(RecordPart):
    """Counts of the sample stage.

    samples = correct + wrong + no_answer + truncated + error. Every prompt that was found is asked
    or counted in one of the numbers from `prompts_repeated` on.
    """

    prompts: int
    """Prompts that were asked."""
    prompts_repeated: int
    """Prompts that another prompt equals, which was asked instead."""
    prompts_ambiguous: int
    """Prompts of a dataset whose traces have different final answers."""
    prompts_apart: int
    """Prompts that belong to an eval set of `sample.apart_from`."""
    prompts_unscorable: int
    """Prompts of a dataset whose expected answer the scorer cannot use."""
    prompts_conversation: int
    """Traces of a dataset whose answer follows calls of tools or other messages of the model."""
    prompts_not_renderable: int = 0
    """Prompts that the model's chat template cannot write, such as tools; 0 in earlier records."""
    prompts_over_limit: int
    """Prompts of a dataset after the first `limit`."""
    samples: int
    """Completions of all prompts."""
    correct: int
    wrong: int
    no_answer: int
    """Completions in which no answer was found."""
    truncated: int
    """The same, after the maximum number of tokens."""
    error: int
    """Completions that the scorer could not judge."""
    tokens: int
    """Generated tokens of all completions, without stop tokens."""


class SampleResults(RecordPart):
    """Results of the sample stage."""

    model_digest: str
    """Digest of the model that answered."""
    mean_reward: float
    """Mean score of all completions, 0 to 1; completions without an answer or a score count as
    0."""
    pass_at: dict[int, float]
    """Number of tries -> estimated share of prompts with a correct completion among them."""
    all_correct: float
    """Share of prompts with correct completions alone, which teach nothing."""
    none_correct: float
    """Share of prompts without a correct completion, which teach nothing either."""
    answered_by: str | None = None
    """Name, address and version of the server that drew the completions; null if the stage did."""


class ScoreCounts(RecordPart):
    """Counts of the score stage; traces = scored + no_expected_answer + unscorable."""

    traces: int
    """Traces that were read."""
    scored: int
    """Traces with a score."""
    no_expected_answer: int
    """Traces of which neither the eval set nor their meta has an expected answer."""
    unscorable: int
    """Traces that the scorer cannot judge."""


class ScoreResults(RecordPart):
    """Results of the score stage."""

    total: float
    """Sum of all scores."""
    mean: float | None
    """Mean score of the traces with a score; null if there is none."""


class ImportCounts(RecordPart):
    """Counts of the import stage."""

    traces: int
    """Traces posted to the store."""


class ImportedScores(RecordPart):
    """Counts of the import stage of a scoring run."""

    scores: int
    """Scores posted to the store."""
    unknown_traces: int
    """Scores that were not stored, because the store does not have their traces (any more)."""
