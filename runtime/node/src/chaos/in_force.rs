//! In force: the faults of one port, read for every frame, commit or look at the clock.

use std::sync::{Arc, PoisonError, RwLock};

/// Faults that act now, in the order of their injection.
#[derive(Debug)]
pub(super) struct InForce<T>(RwLock<Vec<Arc<T>>>);

impl<T> Default for InForce<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> InForce<T> {
    pub(super) fn add(&self, fault: Arc<T>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    pub(super) fn remove(&self, fault: &Arc<T>) {
        let mut faults = self.0.write().unwrap_or_else(PoisonError::into_inner);
        faults.retain(|other| !Arc::ptr_eq(other, fault));
    }

    /// Those that `concern` the matter in hand.
    pub(super) fn those(&self, concern: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let faults = self.0.read().unwrap_or_else(PoisonError::into_inner);
        faults.iter().filter(|fault| concern(fault)).cloned().collect()
    }
}
