"""A task's labels as a trie of tokens, laid out so that one forward pass scores them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from multitask_api.bundle import LabelIds

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Trie:
    """M nodes (one per distinct label prefix), E = M + L edges, L labels.

    A *source* is a place where the model predicts a next token: 0 is the prompt's last token, j + 1 is node j. An
    *edge* is one prediction: a source and the token that should follow, a node's own token or EOS after a label's
    last node. log p(label) is the sum over the label's edges, so a label that is the prefix of another only differs
    from it in its last edge.
    """

    labels: tuple[str, ...]
    tokens: Ints
    """(M,) the nodes' token ids, parents before children."""
    depths: Ints
    """(M,) 0 for a label's first token: a node's position is prompt length + depth."""
    ancestors: Bools
    """(M, M) true where node i (row) may attend to node j: j is i or lies on i's path."""
    edge_sources: Ints
    """(E,) ascending."""
    edge_targets: Ints
    """(E,) token ids."""
    label_edges: Ints
    """Each label's edges, one label after the other."""
    label_starts: Ints
    """(L,) where each label begins in ``label_edges``."""
    label_ends: Ints
    """(L,) each label's last node."""

    @property
    def size(self) -> int:
        """M, the tokens this trie adds to a prompt."""
        return len(self.tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest label, EOS not included."""
        return int(self.depths.max()) + 1

    @classmethod
    def build(cls, labels: Sequence[LabelIds], eos: int) -> Trie:
        """The trie of labels with distinct, non-empty ids (`prompt.compile_labels` sees to that)."""
        nodes = _Nodes()
        ends = [nodes.add(label.ids) for label in labels]
        # Edge j leads to node j, edge M + l is label l's EOS; then both are sorted by source.
        sources = np.array([parent + 1 for parent in nodes.parents] + [end + 1 for end in ends], dtype=np.int64)
        targets = np.array(nodes.tokens + [eos] * len(labels), dtype=np.int64)
        order = np.argsort(sources, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        paths = [[*nodes.path(end), len(nodes.tokens) + label] for label, end in enumerate(ends)]
        starts = np.cumsum([0, *(len(path) for path in paths)])[:-1]
        return cls(
            labels=tuple(label.label for label in labels),
            tokens=np.array(nodes.tokens, dtype=np.int64),
            depths=np.array([len(nodes.path(node)) - 1 for node in range(len(nodes.tokens))], dtype=np.int64),
            ancestors=nodes.ancestors(),
            edge_sources=sources[order],
            edge_targets=targets[order],
            label_edges=rank[np.array([edge for path in paths for edge in path], dtype=np.int64)],
            label_starts=starts.astype(np.int64),
            label_ends=np.array(ends, dtype=np.int64),
        )

    def covering(self, labels: Sequence[int] | Ints) -> Trie:
        """The nodes of these labels only, with every edge that leaves them.

        Scored, it gives these labels' log probabilities and an upper bound of every other's: the sum over the edges
        that its path shares with theirs, at least its first, and what is left out could only lower it.
        """
        kept = self.ancestors[self.label_ends[labels]].any(axis=0)
        sources = np.concatenate([[True], kept])
        edges = sources[self.edge_sources]
        known = edges[self.label_edges]
        lengths = np.add.reduceat(known, self.label_starts, dtype=np.int64)
        return Trie(
            labels=self.labels,
            tokens=self.tokens[kept],
            depths=self.depths[kept],
            ancestors=self.ancestors[np.ix_(kept, kept)],
            edge_sources=(np.cumsum(sources) - 1)[self.edge_sources[edges]],
            edge_targets=self.edge_targets[edges],
            label_edges=(np.cumsum(edges) - 1)[self.label_edges[known]],
            label_starts=np.cumsum(lengths) - lengths,
            # Of a label that is not covered this is a node on its way, or none of its own: only covered ones are read.
            label_ends=(np.cumsum(kept) - 1)[self.label_ends],
        )


@dataclass
class _Nodes:
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, ids: Sequence[int]) -> int:
        """The last node of these ids; nodes that are missing are made."""
        node = -1
        for token in ids:
            child = self.children.get((node, token))
            if child is None:
                child = len(self.tokens)
                self.children[node, token] = child
                self.tokens.append(token)
                self.parents.append(node)
            node = child
        return node

    def path(self, node: int) -> list[int]:
        """The nodes from a label's first token to this one."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def ancestors(self) -> Bools:
        mask = np.eye(len(self.tokens), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                mask[node] |= mask[parent]
        return mask
