"""The prompts of CUTE, 14 tasks on characters and words (Edman et al. 2024, arXiv 2409.15452).

Questions and the four examples of each task are those of the authors (MIT licence). Differences:
- Lines are not indented, and one missing and some inconsistent quotation marks are set.
- There is no chat template: a model that is not tuned to one continues plain text.

As published, an answer ends at its quotation mark, white space around it does not count, and tasks
on words ignore case.
"""

from typing import NamedTuple


class Prompt(NamedTuple):
    """The prompt of a task.

    Attributes:
        does: what the instruction says, up to ", based on the following examples".
        asks: the question, with a place for each input.
        examples: the inputs of each example and, last, its answer.
    """

    does: str
    asks: str
    examples: tuple[tuple[str, ...], ...]

    @property
    def text(self) -> str:
        """Instruction and examples, up to the question."""
        lines = [
            f"{number}. {self.asks.format(*inputs)}{LEAD}{answer}{QUOTE}\n"
            for number, (*inputs, answer) in enumerate(self.examples, start=1)
        ]
        return f"{self.does}, based on the following examples:\n\n{''.join(lines)}\n"

    def question(self, inputs: list[str]) -> str:
        """The question about these inputs."""
        return f"Question: {self.asks.format(*inputs)}"

    @property
    def inputs(self) -> int:
        """How many inputs a question has."""
        return len(self.examples[0]) - 1


QUOTE = '"'
LEAD = ' Answer: "'
YES_NO = ("Yes", "No")
DAY, DO = "it is a beautiful day", "i think i can do it"

PROMPTS = {
    "spell": Prompt(
        "Spell out the word, putting spaces between each letter",
        'Spell out the word "{}".',
        (
            ("alphabet", "a l p h a b e t"),
            ("hello", "h e l l o"),
            ("zebra", "z e b r a"),
            ("tongue", "t o n g u e"),
        ),
    ),
    "spell_inverse": Prompt(
        "Write the word that is spelled out, without any spaces",
        'Write the word "{}".',
        (
            ("a l p h a b e t", "alphabet"),
            ("h e l l o", "hello"),
            ("z e b r a", "zebra"),
            ("t o n g u e", "tongue"),
        ),
    ),
    "contains_char": Prompt(
        "Answer whether the specified letter is in the given word",
        'Is there a "{}" in "{}"?',
        (
            ("a", "alphabet", "Yes"),
            ("z", "alphabet", "No"),
            ("u", "hello", "No"),
            ("o", "hello", "Yes"),
        ),
    ),
    "contains_word": Prompt(
        "Answer whether the specified word is in the given sentence (case insensitive)",
        'Is there a "{}" in "{}"?',
        (
            ("the", "The cow goes moo.", "Yes"),
            ("goat", "The cow goes moo.", "No"),
            ("glad", "I am very happy.", "No"),
            ("happy", "I am very happy.", "Yes"),
        ),
    ),
    "orth": Prompt(
        "Select the word that is closer in Levenshtein distance to the given word",
        'Closer in Levenshtein distance to "{}": "{}", "{}".',
        (
            ("bold", "cold", "brave", "cold"),
            ("computer", "completed", "laptop", "completed"),
            ("happy", "glad", "apply", "apply"),
            ("camp", "ramp", "tent", "ramp"),
        ),
    ),
    "sem": Prompt(
        "Select the word that is more semantically related to the given word",
        'More semantically related to "{}": "{}", "{}".',
        (
            ("bold", "cold", "brave", "brave"),
            ("computer", "completed", "laptop", "laptop"),
            ("happy", "glad", "apply", "glad"),
            ("camp", "ramp", "tent", "tent"),
        ),
    ),
    "ins_char": Prompt(
        "Add the specified letter after every instance of the second specified letter in a given "
        "word",
        'Add an "{}" after every "{}" in "{}".',
        (
            ("e", "a", "alphabet", "aelphaebet"),
            ("l", "l", "hello", "hellllo"),
            ("t", "z", "zebra", "ztebra"),
            ("f", "u", "tongue", "tongufe"),
        ),
    ),
    "ins_word": Prompt(
        "Add the specified word after every instance of the second specified word in a given "
        "sentence",
        'Add "{}" after every "{}" in "{}".',
        (
            ("bad", "beautiful", DAY, "it is a beautiful bad day"),
            ("hello", "day", DAY, "it is a beautiful day hello"),
            ("not", "i", DO, "i not think i not can do it"),
            ("can", "can", DO, "i think i can can do it"),
        ),
    ),
    "del_char": Prompt(
        "Delete every instance of a specified letter in a given word",
        'Delete every instance of "{}" in "{}".',
        (
            ("a", "alphabet", "lphbet"),
            ("l", "hello", "heo"),
            ("z", "zebra", "ebra"),
            ("u", "tongue", "tonge"),
        ),
    ),
    "del_word": Prompt(
        "Delete every instance of a specified word in a given sentence",
        'Delete every instance of "{}" in "{}".',
        (
            ("a", DAY, "it is beautiful day"),
            ("beautiful", DAY, "it is a day"),
            ("i", DO, "think can do it"),
            ("can", DO, "i think i do it"),
        ),
    ),
    "swap_char": Prompt(
        "Swap the positions of two specified letters in a given word",
        'Swap "{}" and "{}" in "{}".',
        (
            ("l", "b", "alphabet", "abphalet"),
            ("h", "e", "hello", "ehllo"),
            ("z", "a", "zebra", "aebrz"),
            ("u", "e", "tongue", "tongeu"),
        ),
    ),
    "swap_word": Prompt(
        "Swap the positions of two specified words in a given sentence",
        'Swap "{}" and "{}" in "{}".',
        (
            ("it", "a", DAY, "a is it beautiful day"),
            ("it", "beautiful", DAY, "beautiful is a it day"),
            ("think", "do", DO, "i do i can think it"),
            ("can", "do", DO, "i think i do can it"),
        ),
    ),
    "sub_char": Prompt(
        "Substitute the first specified letter with the second specified letter in a given word",
        'Substitute "{}" with "{}" in "{}".',
        (
            ("a", "b", "alphabet", "blphbbet"),
            ("h", "e", "hello", "eello"),
            ("z", "a", "zebra", "aebra"),
            ("u", "e", "tongue", "tongee"),
        ),
    ),
    "sub_word": Prompt(
        "Substitute the first specified word with the second specified word in a given sentence",
        'Substitute "{}" with "{}" in "{}".',
        (
            ("it", "a", DAY, "a is a beautiful day"),
            ("it", "beautiful", DAY, "beautiful is a beautiful day"),
            ("i", "do", DO, "do think do can do it"),
            ("think", "can", DO, "i can i can do it"),
        ),
    ),
}
"""By task, in the authors' words."""


def choices(task: str, inputs: list[str]) -> tuple[str, ...]:
    """The possible answers of a task, if they are few."""
    if task.startswith("contains"):
        return YES_NO
    return tuple(inputs[1:]) if task in ("orth", "sem") else ()


def ignores_case(task: str) -> bool:
    """Whether the case of answers does not count; in sentences a first word may be moved."""
    return task.endswith("_word")
