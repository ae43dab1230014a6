"""The order of atoms in the table: an atom can branch only to the atom that follows it directly."""

from __future__ import annotations

from dataclasses import dataclass, replace

from threadlets._syslets.graph import Branch, End, Node, Target


@dataclass(frozen=True, eq=False)
class PlacedNode:
    """A node at its position in the table, and its branch; None if it has none."""

    node: Node
    branch: Branch | None
    next: Target

    @property
    def skips(self) -> bool:
        """Whether a stop continues with the adjacent node."""
        return self.branch is not None and isinstance(self.branch.taken, Node)

    @property
    def end(self) -> End | None:
        """The end that the program may reach from this node, if any."""
        if self.branch is not None and isinstance(self.branch.taken, End):
            return self.branch.taken
        return self.next if isinstance(self.next, End) else None


def arrange(nodes: list[Node], entry: Node) -> list[PlacedNode]:
    """Return the nodes in an order in which every branch goes to the adjacent node; `entry` is first.

    Nodes that only pass flow on are added where two branches need the same adjacent node.
    """
    position = {node: index for index, node in enumerate(nodes)}
    followers: dict[Node, Node] = {}
    with_predecessor = {entry}
    branches: dict[Node, Branch] = {}
    added: list[Node] = []

    def can_follow(target: Target, node: Node) -> bool:
        assert isinstance(target, Node)
        last: Node | None = target
        while last is not None and last is not node:
            last = followers.get(last)
        return target not in with_predecessor and last is None

    for node in nodes:
        if not node.branches:
            continue
        branch = _branch_that_ends(node) or _nearest(node, node.branches, position)
        if isinstance(branch.taken, Node):
            free = [branch for branch in node.branches if can_follow(branch.taken, node)]
            if free:
                branch = _nearest(node, free, position)
                neighbour = branch.taken
            else:
                neighbour = Node(node.location, branch.taken)
                branch = replace(branch, taken=neighbour)
            assert isinstance(neighbour, Node)
            followers[node] = neighbour
            with_predecessor.add(neighbour)
        elif isinstance(branch.next, End) and not branch.next.is_same(branch.taken):
            # An atom has one outcome: a second end needs an atom of its own.
            added.append(Node(branch.next.location, branch.next))
            branch = replace(branch, next=added[-1])
        branches[node] = branch

    placed = []
    for head in [entry, *(node for node in nodes + added if node not in with_predecessor)]:
        node_in_chain: Node | None = head
        while node_in_chain is not None:
            chosen = branches.get(node_in_chain)
            following = node_in_chain.next if chosen is None else chosen.next
            assert following is not None
            placed.append(PlacedNode(node_in_chain, chosen, following))
            node_in_chain = followers.get(node_in_chain)
    return placed


def _branch_that_ends(node: Node) -> Branch | None:
    return next((branch for branch in node.branches if isinstance(branch.taken, End)), None)


def _nearest(node: Node, branches: list[Branch], position: dict[Node, int]) -> Branch:
    """Return the branch whose target comes soonest after `node` in the source."""

    def distance(branch: Branch) -> tuple[bool, int]:
        index = position[branch.taken] if isinstance(branch.taken, Node) else 0
        return index <= position[node], index

    return min(branches, key=distance)
