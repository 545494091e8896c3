"""Tokenizers out of GGUF files: byte-level BPE ("gpt2") and SentencePiece ("llama")."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from cpuattn.demo.errors import DemoError
from cpuattn.demo.gguf_file import GGUFFile

# Types of tokens in a GGUF file.
CONTROL = 3  # such as <|im_start|>
USER_DEFINED = 4  # never cut, wherever they stand
# Control tokens that end an answer beside the file's own, by the names that models give them.
END_NAMES = {"<|im_end|>", "<|eot_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "</s>"}
# How a text is cut into words before the merges, by tokenizer.ggml.pre. Llama 3 and Qwen 2 differ
# in the digits that may stand together.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "llama-bpe": _WORDS.format(digits="{1,3}"),
    "llama3": _WORDS.format(digits="{1,3}"),
    "qwen2": _WORDS.format(digits=""),
}
SINGLE_DIGITS = {"smollm"}
PLAIN = {"default", "gpt-2"}


def build_tokenizer(model: GGUFFile) -> Tokenizer:
    """Return the tokenizer of a model.

    Parameters
    ----------
    model : GGUFFile
        Has the tokens, their types, and merges or scores.

    Returns
    -------
    tokenizers.Tokenizer
        It reads the names of control tokens as ordinary text, so that a user's text cannot end
        the user's turn.

    Raises
    ------
    DemoError
        If the file has a kind of tokenizer that is not known here.
    """
    kind = model.value("tokenizer.ggml.model")
    tokens: list[str] = model.value("tokenizer.ggml.tokens")
    if kind == "gpt2":
        tokenizer = _byte_level(model, tokens)
    elif kind == "llama":
        tokenizer = _sentence_piece(model, tokens)
    else:
        raise DemoError(f"the model's tokenizer is of the kind {kind!r}; gpt2 and llama are known")
    types: list[int] = model.value("tokenizer.ggml.token_type")
    for special, add in (
        (CONTROL, tokenizer.add_special_tokens),
        (USER_DEFINED, tokenizer.add_tokens),
    ):
        names = [name for name, found in zip(tokens, types, strict=True) if found == special]
        add([AddedToken(name, normalized=False) for name in names])
    tokenizer.encode_special_tokens = True
    return tokenizer


def control_tokens(model: GGUFFile) -> dict[str, int]:
    """Return the control tokens by name, with their ids."""
    types = model.value("tokenizer.ggml.token_type")
    names = model.value("tokenizer.ggml.tokens")
    return {name: index for index, name in enumerate(names) if types[index] == CONTROL}


def end_tokens(model: GGUFFile) -> set[int]:
    """Return the tokens by which a model ends an answer."""
    names = {index for name, index in control_tokens(model).items() if name in END_NAMES}
    fields = (model.value(f"tokenizer.ggml.{name}_token_id", None) for name in ("eos", "eot"))
    return names | {index for index in fields if index is not None}


def _byte_level(model: GGUFFile, tokens: list[str]) -> Tokenizer:
    pre = model.value("tokenizer.ggml.pre", "default")
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in model.value("tokenizer.ggml.merges")],
            ignore_merges=pre in ("llama-bpe", "llama3"),  # a word that is a token is that token
        )
    )
    first: list[pre_tokenizers.PreTokenizer] = []
    if pre in SPLITS:
        first = [pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated")]
    elif pre in SINGLE_DIGITS:
        first = [pre_tokenizers.Digits(individual_digits=True)]
    elif pre not in PLAIN:
        known = ", ".join(sorted(SPLITS.keys() | SINGLE_DIGITS | PLAIN))
        raise DemoError(f"the model cuts text into words by {pre!r}; {known} are known")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in SPLITS)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, last])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(model: GGUFFile, tokens: list[str]) -> Tokenizer:
    scores: list[float] = model.value("tokenizer.ggml.scores")
    unknown = tokens[model.value("tokenizer.ggml.unknown_token_id", 0)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=_merges(tokens, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    if model.value("tokenizer.ggml.add_space_prefix", default=True):
        spaces.insert(0, normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),  # the space before the first word
        ]
    )
    return tokenizer


def _merges(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """List the pairs of tokens that join to a token, the best of these first.

    SentencePiece joins whichever neighbors give the token of the highest score; merges with a
    rank say the same.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    found = [
        (-scores[index], ids[token[:cut]], ids[token[cut:]])
        for token, index in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    return [(tokens[left], tokens[right]) for _, left, right in sorted(found)]
