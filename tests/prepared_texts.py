"""Stories for tests of data preparation, and the texts of prepared rows."""

BOS, EOS = 0, 1
STORIES = [f"Tim {n} saw a caf\u00e9 and {'ran ' * (n % 5)}home." for n in range(40)]


def texts_of(prepared, tokenizer):
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in prepared.dataset["input_ids"]]
