//! Scopes: groups of requests that are cancelled, awaited and counted together.
//!
//! Members are in linked lists whose links are in one table, so that joining and leaving cost the same
//! however many there are. A scope has two lists: live members, and members that were cancelled.
//! Cancelling a scope moves one member after the other from the first list to the second, in the order in
//! which they joined. The caller may stop at any member and go on later, while other members join and
//! leave. This module does not know what a member is, nor how one is cancelled.

use slab::Slab;

const NONE: u32 = u32::MAX;

/// How many kinds of requests there are.
pub const N_KINDS: usize = 4;

/// Names a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScopeKey(u32);

impl ScopeKey {
    /// The scope of requests that were not started in another scope; it always exists.
    pub const ROOT: Self = Self(0);
}

/// Names a member, from when it joins until it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberKey(u32);

impl MemberKey {
    /// Names no member.
    pub const NONE: Self = Self(NONE);
}

/// Which list of its scope a member is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberList {
    Live = 0,
    /// The member was cancelled.
    Ending = 1,
}

#[derive(Debug)]
struct Member<M> {
    value: M,
    scope: u32,
    prev: u32,
    next: u32,
    kind: u8,
    list: MemberList,
}

#[derive(Debug, Clone, Copy)]
struct ListEnds {
    first: u32,
    last: u32,
}

const EMPTY_LIST: ListEnds = ListEnds { first: NONE, last: NONE };

#[derive(Debug)]
struct Scope<O> {
    /// `None` for the root.
    owner: Option<O>,
    lists: [ListEnds; 2],
    n_members: [usize; N_KINDS],
}

impl<O> Scope<O> {
    fn new(owner: Option<O>) -> Self {
        Self { owner, lists: [EMPTY_LIST; 2], n_members: [0; N_KINDS] }
    }
}

/// The scopes of one loop; `M` is a member's value, `O` a scope's owner.
#[derive(Debug)]
pub struct Scopes<M, O> {
    members: Slab<Member<M>>,
    scopes: Slab<Scope<O>>,
}

impl<M, O> Default for Scopes<M, O> {
    fn default() -> Self {
        let mut scopes = Slab::new();
        let root = scopes.insert(Scope::new(None));
        debug_assert_eq!(ScopeKey::ROOT.0 as usize, root);
        Self { members: Slab::new(), scopes }
    }
}

impl<M, O> Scopes<M, O> {
    /// Open a scope without members.
    pub fn open(&mut self, owner: O) -> ScopeKey {
        ScopeKey(narrow(self.scopes.insert(Scope::new(Some(owner)))))
    }

    /// Close a scope; returns its owner and the members that were left, which belong to the root from now on.
    pub fn close(&mut self, key: ScopeKey) -> (Option<O>, Vec<MemberKey>) {
        assert!(key != ScopeKey::ROOT, "the root is never closed");
        let left: Vec<MemberKey> = self.keys(key).collect();
        for &member in &left {
            self.unlink(member.0);
            let list = self.members[member.0 as usize].list;
            self.members[member.0 as usize].scope = ScopeKey::ROOT.0;
            self.link(member.0, list);
        }
        (self.scopes.remove(key.0 as usize).owner, left)
    }

    /// The owner of a scope; `None` for the root.
    pub fn owner(&self, key: ScopeKey) -> Option<&O> {
        self.scopes[key.0 as usize].owner.as_ref()
    }

    /// The owners of all scopes.
    pub fn owners(&self) -> impl Iterator<Item = &O> {
        self.scopes.iter().filter_map(|(_, scope)| scope.owner.as_ref())
    }

    /// The value of a member.
    pub fn value(&self, key: MemberKey) -> &M {
        &self.members[key.0 as usize].value
    }

    /// Add a request of some kind (below [`N_KINDS`]) to a scope.
    pub fn join(&mut self, scope: ScopeKey, kind: usize, value: M) -> MemberKey {
        let member = Member {
            value,
            scope: scope.0,
            prev: NONE,
            next: NONE,
            kind: kind as u8,
            list: MemberList::Live,
        };
        let at = narrow(self.members.insert(member));
        self.link(at, MemberList::Live);
        MemberKey(at)
    }

    /// Remove a member from its scope; returns its value and that scope.
    pub fn leave(&mut self, key: MemberKey) -> (M, ScopeKey) {
        self.unlink(key.0);
        let member = self.members.remove(key.0 as usize);
        if self.members.is_empty() {
            // Give back the memory that many requests at once have needed.
            self.members = Slab::new();
        }
        (member.value, ScopeKey(member.scope))
    }

    /// The next live member of a scope; it counts as cancelled from now on.
    pub fn next_to_cancel(&mut self, scope: ScopeKey) -> Option<&M> {
        let at = self.scopes[scope.0 as usize].lists[MemberList::Live as usize].first;
        if at == NONE {
            return None;
        }
        self.unlink(at);
        self.link(at, MemberList::Ending);
        Some(&self.members[at as usize].value)
    }

    /// Count a member as cancelled: it was cancelled by other means.
    pub fn mark_cancelled(&mut self, key: MemberKey) {
        if self.members[key.0 as usize].list == MemberList::Live {
            self.unlink(key.0);
            self.link(key.0, MemberList::Ending);
        }
    }

    /// Make all members of a scope live again, so that they can be cancelled once more.
    pub fn reset_cancelled(&mut self, scope: ScopeKey) {
        let ending = self.scopes[scope.0 as usize].lists[MemberList::Ending as usize].first;
        let ending: Vec<u32> = self.walk(ending).collect();
        for at in ending {
            self.unlink(at);
            self.link(at, MemberList::Live);
        }
    }

    /// The scope that a member belongs to.
    pub fn scope_of(&self, key: MemberKey) -> ScopeKey {
        ScopeKey(self.members[key.0 as usize].scope)
    }

    /// How many members a scope has, by kind.
    pub fn n_members(&self, scope: ScopeKey) -> [usize; N_KINDS] {
        self.scopes[scope.0 as usize].n_members
    }

    /// Whether a scope has no members.
    pub fn is_empty(&self, scope: ScopeKey) -> bool {
        self.n_members(scope).iter().all(|&n| n == 0)
    }

    /// How many members there are, by kind, in all scopes.
    pub fn n_all(&self) -> [usize; N_KINDS] {
        let mut n_all = [0; N_KINDS];
        for (_, scope) in &self.scopes {
            n_all.iter_mut().zip(scope.n_members).for_each(|(all, n)| *all += n);
        }
        n_all
    }

    /// The members of a scope.
    pub fn members(&self, scope: ScopeKey) -> impl Iterator<Item = &M> {
        self.keys(scope).map(|key| &self.members[key.0 as usize].value)
    }

    /// The members of all scopes, each with its scope.
    pub fn all(&self) -> impl Iterator<Item = (ScopeKey, &M)> {
        self.members.iter().map(|(_, member)| (ScopeKey(member.scope), &member.value))
    }

    fn keys(&self, scope: ScopeKey) -> impl Iterator<Item = MemberKey> {
        let [live, ending] = self.scopes[scope.0 as usize].lists;
        self.walk(ending.first).chain(self.walk(live.first)).map(MemberKey)
    }

    fn walk(&self, first: u32) -> impl Iterator<Item = u32> {
        let existing = |at: u32| (at != NONE).then_some(at);
        std::iter::successors(existing(first), move |&at| existing(self.members[at as usize].next))
    }

    /// Append a member, which is in no list, to a list of its scope.
    fn link(&mut self, at: u32, list: MemberList) {
        let member = &mut self.members[at as usize];
        let scope = &mut self.scopes[member.scope as usize];
        scope.n_members[usize::from(member.kind)] += 1;
        let ends = &mut scope.lists[list as usize];
        (member.list, member.prev, member.next) = (list, ends.last, NONE);
        let before = std::mem::replace(&mut ends.last, at);
        match before {
            NONE => ends.first = at,
            before => self.members[before as usize].next = at,
        }
    }

    /// Take a member out of the list that it is in.
    fn unlink(&mut self, at: u32) {
        let member = &self.members[at as usize];
        let (prev, next, list) = (member.prev, member.next, member.list);
        let scope = &mut self.scopes[member.scope as usize];
        scope.n_members[usize::from(member.kind)] -= 1;
        let ends = &mut scope.lists[list as usize];
        if ends.first == at {
            ends.first = next;
        }
        if ends.last == at {
            ends.last = prev;
        }
        if prev != NONE {
            self.members[prev as usize].next = next;
        }
        if next != NONE {
            self.members[next as usize].prev = prev;
        }
    }
}

fn narrow(at: usize) -> u32 {
    u32::try_from(at)
        .ok()
        .filter(|&at| at != NONE)
        .expect("fewer requests than memory has room for")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn members_are_cancelled_once_in_the_order_in_which_they_joined() {
        let mut scopes = Scopes::default();
        let scope = scopes.open(());
        let keys: Vec<_> = (0..3).map(|at| scopes.join(scope, 0, at)).collect();
        assert_eq!(Some(&0), scopes.next_to_cancel(scope));
        assert_eq!((1, scope), scopes.leave(keys[1]));
        scopes.join(scope, 0, 3);
        assert_eq!(Some(&2), scopes.next_to_cancel(scope));
        assert_eq!(Some(&3), scopes.next_to_cancel(scope));
        assert_eq!(None, scopes.next_to_cancel(scope));
        scopes.reset_cancelled(scope);
        assert_eq!(Some(&0), scopes.next_to_cancel(scope));
    }

    #[test]
    fn members_that_are_left_in_a_closed_scope_belong_to_the_root() {
        let mut scopes = Scopes::default();
        let scope = scopes.open(());
        let key = scopes.join(scope, 1, "left");
        assert_eq!((Some(()), vec![key]), scopes.close(scope));
        assert_eq!([0, 1, 0, 0], scopes.n_members(ScopeKey::ROOT));
        assert_eq!(("left", ScopeKey::ROOT), scopes.leave(key));
    }

    #[test]
    fn each_scope_but_the_root_has_its_owner() {
        let mut scopes: Scopes<(), _> = Scopes::default();
        let (one, two) = (scopes.open("one"), scopes.open("two"));
        assert_eq!(
            [None, Some(&"one"), Some(&"two")],
            [ScopeKey::ROOT, one, two].map(|it| scopes.owner(it))
        );
        assert_eq!(vec![&"one", &"two"], scopes.owners().collect::<Vec<_>>());
        scopes.close(one);
        assert_eq!(vec![&"two"], scopes.owners().collect::<Vec<_>>());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(usize, usize),
        Leave(usize),
        Tell(usize),
        CountAsTold(usize),
        TellAgain(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3usize, 0..N_KINDS).prop_map(|(scope, kind)| Step::Join(scope, kind)),
            2 => (0..100usize).prop_map(Step::Leave),
            2 => (0..3usize).prop_map(Step::Tell),
            1 => (0..100usize).prop_map(Step::CountAsTold),
            1 => (0..3usize).prop_map(Step::TellAgain),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// After any sequence of operations the lists agree with plain vectors.
        #[test]
        fn the_lists_agree_with_plain_vectors(steps in steps()) {
            let mut scopes = Scopes::default();
            let keys = [ScopeKey::ROOT, scopes.open(()), scopes.open(())];
            // For each scope: the members that were cancelled, then the live ones.
            let mut model: [[Vec<usize>; 2]; 3] = Default::default();
            let mut members: Vec<Option<(MemberKey, usize, usize)>> = Vec::new();
            for step in steps {
                match step {
                    Step::Join(scope, kind) => {
                        let id = members.len();
                        members.push(Some((scopes.join(keys[scope], kind, id), scope, kind)));
                        model[scope][1].push(id);
                    }
                    Step::Leave(id) if id < members.len() => {
                        if let Some((key, scope, _)) = members[id].take() {
                            prop_assert_eq!((id, keys[scope]), scopes.leave(key));
                            model[scope].iter_mut().for_each(|list| list.retain(|&it| it != id));
                        }
                    }
                    Step::Leave(_) => {}
                    Step::Tell(scope) => {
                        let expected = model[scope][1].first().copied();
                        prop_assert_eq!(expected.as_ref(), scopes.next_to_cancel(keys[scope]));
                        if let Some(id) = expected {
                            model[scope][1].remove(0);
                            model[scope][0].push(id);
                        }
                    }
                    Step::CountAsTold(id) => {
                        if let Some(&Some((key, scope, _))) = members.get(id) {
                            scopes.mark_cancelled(key);
                            let [cancelled, live] = &mut model[scope];
                            cancelled.extend(live.iter().position(|&it| it == id).map(|at| live.remove(at)));
                        }
                    }
                    Step::TellAgain(scope) => {
                        scopes.reset_cancelled(keys[scope]);
                        let [cancelled, live] = &mut model[scope];
                        live.append(cancelled);
                    }
                }
                for (scope, key) in keys.iter().enumerate() {
                    let found: Vec<usize> = scopes.members(*key).copied().collect();
                    prop_assert_eq!(model[scope].concat(), found);
                    let mut n_members = [0; N_KINDS];
                    for (_, its, kind) in members.iter().flatten() {
                        n_members[*kind] += usize::from(*its == scope);
                    }
                    prop_assert_eq!(n_members, scopes.n_members(*key));
                    prop_assert_eq!(n_members == [0; N_KINDS], scopes.is_empty(*key));
                }
                prop_assert_eq!(members.iter().flatten().count(), scopes.all().count());
            }
            let mut n_all = [0; N_KINDS];
            for (id, (key, scope, kind)) in members.iter().enumerate().filter_map(|(id, it)| Some((id, (*it)?))) {
                n_all[kind] += 1;
                prop_assert_eq!(keys[scope], scopes.scope_of(key));
                prop_assert_eq!(&id, scopes.value(key));
                prop_assert!(scopes.all().any(|it| it == (keys[scope], &id)));
            }
            prop_assert_eq!(n_all, scopes.n_all());
        }
    }
}
