//! A tree of atomics over n leaves that several threads update without a lock.
//!
//! Each inner node holds a value computed from its two children. After the inputs of a leaf have
//! changed, the changing thread walks from the leaf to the root and updates each node: it computes and
//! stores the value, and repeats this until the computed value equals the stored one. No update is lost: a
//! thread that stores an outdated value at a node computes it once more after that store, and then sees
//! the change. A thread that changed an input visits each node above it after the change. Therefore,
//! once all walks have ended, every node has the value computed from its children. During walks, a node
//! may be outdated.

/// Shape of a tree with `leaves` leaves: node 1 is the root, `2i` and `2i + 1` are the children of
/// `i`, and leaf `k` is node `leaves + k`. With one leaf the root is the leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    leaves: usize,
}

impl Shape {
    /// Creates the shape for at most 2³¹ leaves, so that an index always fits in 32 bits.
    pub(super) fn new(leaves: usize) -> Self {
        assert!(leaves <= 1 << 31, "too many backends in one pool");
        Self { leaves }
    }

    pub(super) const ROOT: usize = 1;

    pub(super) fn is_empty(self) -> bool {
        self.leaves == 0
    }

    /// Inner nodes are `1..self.inner()`.
    pub(super) fn inner(self) -> usize {
        self.leaves
    }

    /// Returns the leaf at `node`; `None` for an inner node.
    pub(super) fn leaf(self, node: usize) -> Option<u32> {
        node.checked_sub(self.leaves).map(|leaf| leaf as u32)
    }

    /// Whether `leaf` is at or below `node`.
    pub(super) fn covers(self, node: usize, leaf: u32) -> bool {
        let place = self.leaves + leaf as usize;
        let above = place.ilog2().checked_sub(node.ilog2());
        above.is_some_and(|levels| place >> levels == node)
    }

    /// Inner nodes from the parent of `leaf` up to the root.
    pub(super) fn path(self, leaf: u32) -> impl Iterator<Item = usize> {
        std::iter::successors(Some((self.leaves + leaf as usize) >> 1), |node| Some(node >> 1))
            .take_while(|&node| node >= Self::ROOT)
    }
}

/// Updates one node: see the top of this file. `load` and `store` must be sequentially consistent.
pub(super) fn update<T: PartialEq>(
    compute: impl Fn() -> T,
    load: impl Fn() -> T,
    store: impl Fn(&T),
) {
    let mut value = compute();
    // Nothing was stored, so no value of this thread can be outdated.
    if load() == value {
        return;
    }
    loop {
        store(&value);
        let again = compute();
        if again == value {
            return;
        }
        value = again;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{Shape, update};

    #[test]
    fn every_leaf_reaches_the_root_and_is_covered_by_its_path_alone() {
        for leaves in 1..70 {
            let shape = Shape::new(leaves);
            for leaf in 0..leaves as u32 {
                let path: Vec<usize> = shape.path(leaf).collect();
                assert_eq!(path.last().copied(), (leaves > 1).then_some(Shape::ROOT));
                for node in 1..shape.inner() {
                    assert_eq!(shape.covers(node, leaf), path.contains(&node));
                }
                assert_eq!(shape.leaf(leaves + leaf as usize), Some(leaf));
            }
        }
    }

    /// Another thread changes a child between the computation and the store.
    #[test]
    fn no_outdated_value_remains() {
        let (left, right, node) = (Cell::new(3), Cell::new(5), Cell::new(0));
        let sum = || left.get() + right.get();
        let computations = Cell::new(0);
        let interrupted = || {
            let seen = sum();
            computations.set(computations.get() + 1);
            if computations.get() == 1 {
                right.set(right.get() + 10);
                update(sum, || node.get(), |value| node.set(*value));
            }
            seen
        };
        update(interrupted, || node.get(), |value| node.set(*value));
        assert_eq!(node.get(), 18);
    }
}
