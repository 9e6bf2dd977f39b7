//! Election safety: at most one leader in a term.
//!
//! Source: Raft thesis, figure 3.2.

use std::collections::BTreeMap;

use polyraft_core::ids::{ReplicaId, Term};

use super::Violation;

/// The leader of every term so far.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<Term, ReplicaId>,
}

impl ElectionSafety {
    /// `replica` became leader in `term`.
    ///
    /// # Errors
    /// Another one did before.
    pub fn elected(&mut self, replica: ReplicaId, term: Term) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(replica);
        if first == replica {
            return Ok(());
        }
        let what = format!("replicas {first} and {replica} lead in term {term}");
        Err(Violation::new("election safety", what))
    }

    /// Terms that had a leader.
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_in_a_term_are_found() {
        let mut safety = ElectionSafety::default();
        assert!(safety.elected(ReplicaId::new(1), Term::new(3)).is_ok());
        assert!(safety.elected(ReplicaId::new(1), Term::new(3)).is_ok());
        assert!(safety.elected(ReplicaId::new(2), Term::new(4)).is_ok());
        assert!(safety.elected(ReplicaId::new(2), Term::new(3)).is_err());
    }
}
