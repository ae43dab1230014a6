"""The order of atoms in the table: an atom can branch only to the atom that follows it directly."""

from __future__ import annotations

from dataclasses import dataclass, replace

from threadlets._syslets.graph import End, Node, Target, Way


@dataclass(frozen=True, eq=False)
class Placed:
    """A node at its position in the table, and the way it branches; None if it does not branch."""

    node: Node
    way: Way | None
    next: Target

    @property
    def skips(self) -> bool:
        """Whether a stop continues with the adjacent node."""
        return self.way is not None and isinstance(self.way.branch, Node)

    @property
    def end(self) -> End | None:
        """The end that the program may reach from this node, if any."""
        if self.way is not None and isinstance(self.way.branch, End):
            return self.way.branch
        return self.next if isinstance(self.next, End) else None


def arrange(nodes: list[Node], entry: Node) -> list[Placed]:
    """Return the nodes in an order in which every branch goes to the adjacent node; `entry` is first.

    Nodes that only pass flow on are added where two branches need the same adjacent node.
    """
    position = {node: index for index, node in enumerate(nodes)}
    followers: dict[Node, Node] = {}
    taken = {entry}
    ways: dict[Node, Way] = {}
    added: list[Node] = []

    def can_follow(branch: Target, node: Node) -> bool:
        assert isinstance(branch, Node)
        last: Node | None = branch
        while last is not None and last is not node:
            last = followers.get(last)
        return branch not in taken and last is None

    for node in nodes:
        if not node.ways:
            continue
        way = _way_that_ends(node) or _nearest(node, node.ways, position)
        if isinstance(way.branch, Node):
            free = [way for way in node.ways if can_follow(way.branch, node)]
            if free:
                way = _nearest(node, free, position)
                neighbour = way.branch
            else:
                neighbour = Node(node.place, way.branch)
                way = replace(way, branch=neighbour)
            assert isinstance(neighbour, Node)
            followers[node] = neighbour
            taken.add(neighbour)
        elif isinstance(way.next, End) and not way.next.is_same(way.branch):
            # An atom has one outcome: a second end needs an atom of its own.
            added.append(Node(way.next.place, way.next))
            way = replace(way, next=added[-1])
        ways[node] = way

    placed = []
    for head in [entry, *(node for node in nodes + added if node not in taken)]:
        node_in_chain: Node | None = head
        while node_in_chain is not None:
            chosen = ways.get(node_in_chain)
            following = node_in_chain.next if chosen is None else chosen.next
            assert following is not None
            placed.append(Placed(node_in_chain, chosen, following))
            node_in_chain = followers.get(node_in_chain)
    return placed


def _way_that_ends(node: Node) -> Way | None:
    return next((way for way in node.ways if isinstance(way.branch, End)), None)


def _nearest(node: Node, ways: list[Way], position: dict[Node, int]) -> Way:
    """Return the way whose branch comes soonest after `node` in the source."""

    def distance(way: Way) -> tuple[bool, int]:
        index = position[way.branch] if isinstance(way.branch, Node) else 0
        return index <= position[node], index

    return min(ways, key=distance)
