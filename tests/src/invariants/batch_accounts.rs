//! What a batcher is given comes back: refused, expired, failed or in a batch, each unit once; and its
//! own figures say the same.
//!
//! Source: requirements BP-9 and BP-21.

use polyraft_core::propose_batcher::BatcherStats;

use super::Violation;

/// Units of one life of a batcher, as its shell saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchAccounts {
    /// Handed in.
    pub pushed: u64,
    /// Handed back at once.
    pub refused: u64,
    /// Handed back because their deadlines had passed.
    pub expired: u64,
    /// Handed back when the batcher was stopped.
    pub failed: u64,
    /// Handed over in batches.
    pub cut: u64,
}

impl BatchAccounts {
    /// The batcher, which is stopped, shows `stats`.
    ///
    /// # Errors
    /// A unit is missing, or was counted twice.
    pub fn close(&self, stats: &BatcherStats) -> Result<(), Violation> {
        let &Self { pushed, refused, expired, failed, cut } = self;
        let told = (stats.submitted_units, stats.refused_units, stats.cut_units);
        // What expired and was not asked for yet comes back with what fails.
        let late = (stats.expired_units + stats.failed_units, stats.pending_units);
        let is_even = pushed == refused + expired + failed + cut;
        if is_even && told == (pushed, refused, cut) && late == (expired + failed, 0) {
            return Ok(());
        }
        Err(Violation::new("batch accounts", format!("{self:?} beside {stats:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_does_not_come_back_is_missed() {
        let stats = BatcherStats {
            submitted_units: 5,
            refused_units: 1,
            expired_units: 1,
            failed_units: 1,
            cut_units: 2,
            ..BatcherStats::default()
        };
        let accounts = BatchAccounts { pushed: 5, refused: 1, expired: 1, failed: 1, cut: 2 };
        assert!(accounts.close(&stats).is_ok());
        assert!(BatchAccounts { failed: 0, ..accounts }.close(&stats).is_err());
        assert!(accounts.close(&BatcherStats { cut_units: 3, ..stats }).is_err());
    }
}
