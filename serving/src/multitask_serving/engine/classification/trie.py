"""A task's labels as a trie of tokens, in arrays that let one forward pass score them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from multitask_api.bundle import LabelIds

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LabelTrie:
    """M nodes (one per distinct label prefix), E = M + L edges, L labels.

    A *source* is a position at which the model predicts the next token: source 0 is the prompt's last token, source
    j + 1 is node j. An *edge* is one such prediction, a source and its target token: the token of a child node, or EOS
    after a label's last node. log p(label) is the sum over the label's edges.
    """

    labels: tuple[str, ...]
    tokens: Ints
    """(M,) the nodes' token ids, parents before children."""
    depths: Ints
    """(M,) 0 for a label's first token; a node's position id is prompt length + depth."""
    ancestors: Bools
    """(M, M) true where node i (row) may attend to node j: j is i or an ancestor of i."""
    edge_sources: Ints
    """(E,) each edge's source, ascending."""
    edge_targets: Ints
    """(E,) each edge's target token id."""
    label_edges: Ints
    """The edge numbers of each label, one label after the other."""
    label_starts: Ints
    """(L,) where each label's edges begin in ``label_edges``."""
    label_ends: Ints
    """(L,) each label's last node."""

    @property
    def size(self) -> int:
        """M, the number of tokens that this trie adds to a prompt."""
        return len(self.tokens)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest label, without EOS."""
        return int(self.depths.max()) + 1

    @cached_property
    def parents(self) -> Ints:
        """(M,) each node's parent, -1 for a label's first token."""
        above = self.ancestors & (self.depths[None, :] == self.depths[:, None] - 1)
        return np.where(self.depths == 0, -1, above.argmax(axis=1)) if self.size else np.empty(0, dtype=np.int64)

    @cached_property
    def leaves(self) -> Ints:
        """The nodes without children; every node is one or an ancestor of one."""
        return np.flatnonzero(self.ancestors.sum(axis=0) == 1)

    def chain(self, node: int) -> Ints:
        """The nodes from a label's first token to ``node``."""
        return np.flatnonzero(self.ancestors[node])

    @classmethod
    def build(cls, labels: Sequence[LabelIds], eos: int) -> LabelTrie:
        """Build the trie. The labels' ids are distinct and not empty (`compile_labels` checks that)."""
        nodes = _Nodes()
        ends = [nodes.add(label.ids) for label in labels]
        # Edge j leads to node j and edge M + l to label l's EOS; all are then sorted by source.
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

    def covering(self, labels: Sequence[int] | Ints) -> LabelTrie:
        """A smaller trie: the nodes of these labels (indices), with every edge that leaves them.

        Its scores are exact for these labels. For every other label the score is an upper bound: the sum over those of
        its edges that leave the kept nodes (at least the first one); the missing terms are never positive.
        """
        kept = self.ancestors[self.label_ends[labels]].any(axis=0)
        sources = np.concatenate([[True], kept])
        edges = sources[self.edge_sources]
        known = edges[self.label_edges]
        lengths = np.add.reduceat(known, self.label_starts, dtype=np.int64)
        return LabelTrie(
            labels=self.labels,
            tokens=self.tokens[kept],
            depths=self.depths[kept],
            ancestors=self.ancestors[np.ix_(kept, kept)],
            edge_sources=(np.cumsum(sources) - 1)[self.edge_sources[edges]],
            edge_targets=self.edge_targets[edges],
            label_edges=(np.cumsum(edges) - 1)[self.label_edges[known]],
            label_starts=np.cumsum(lengths) - lengths,
            # Meaningful for the covered labels only; nothing reads the others.
            label_ends=(np.cumsum(kept) - 1)[self.label_ends],
        )


@dataclass
class _Nodes:
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, ids: Sequence[int]) -> int:
        """Add the missing nodes of a label; returns its last node."""
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
