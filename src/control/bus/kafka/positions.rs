//! How far the live reading of one topic has come, partition by partition. Sans-IO.
//!
//! The position is the reader's own: what brokers forget of it or lose in an outage does not matter.
//! Partitions that are there at the first look are read from their end, all later ones from their
//! beginning, so that nothing that is published from then on is missed but what the brokers have
//! thrown away before it was read.

/// The ends of what a partition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Watermarks {
    /// The first offset that is still there.
    pub(super) low: u64,
    /// One more than the last.
    pub(super) high: u64,
}

/// One topic.
#[derive(Debug, Default)]
pub(super) struct Positions {
    partitions: Vec<Progress>,
    /// It has been looked for, and found or not.
    looked: bool,
}

#[derive(Debug)]
struct Progress {
    begin: Begin,
    /// Everything before has been taken; `None` until the ends are known.
    next: Option<u64>,
    /// `next` when the ends were last asked for.
    asked_at: Option<u64>,
    /// The end was before `asked_at` at the last look.
    shrunk: bool,
    /// The reader has found nothing at `next`, and has stopped.
    out_of_range: bool,
}

/// Where a partition is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    End,
    Beginning,
}

/// From where a partition is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Assign {
    pub(super) partition: u32,
    pub(super) from: u64,
    pub(super) why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It was not read before.
    New,
    /// It was read beyond what is its end now.
    LostItsEnd,
    /// It was to be read next from here, where it has no records any more.
    OutOfRange { next: u64 },
}

impl Positions {
    /// How many partitions there are, once it is known.
    pub(super) fn partitions(&self) -> Option<u32> {
        (!self.partitions.is_empty()).then_some(self.partitions.len() as u32)
    }

    /// Whether nothing that is published from now on can be missed.
    pub(super) fn is_ready(&self) -> bool {
        self.looked && self.partitions.iter().all(|progress| progress.next.is_some())
    }

    /// Whether the partition is not among those that are there.
    pub(super) fn lacks(&self, partition: u32) -> bool {
        self.looked && partition as usize >= self.partitions.len()
    }

    pub(super) fn next(&self, partition: u32) -> Option<u64> {
        self.partitions.get(partition as usize)?.next
    }

    /// The ends are asked for: the answer speaks of a later moment.
    pub(super) fn ask(&mut self) {
        for progress in &mut self.partitions {
            progress.asked_at = progress.next;
        }
    }

    /// The topic is not there.
    pub(super) fn missing(&mut self) {
        self.looked = true;
    }

    /// The answer, with `None` for partitions whose leader did not say.
    pub(super) fn surveyed(&mut self, marks: &[Option<Watermarks>]) -> Vec<Assign> {
        let begin = if self.looked { Begin::Beginning } else { Begin::End };
        self.looked = true;
        while self.partitions.len() < marks.len() {
            self.partitions.push(Progress {
                begin,
                next: None,
                asked_at: None,
                shrunk: false,
                out_of_range: false,
            });
        }
        let mut assigned = Vec::new();
        for (partition, (progress, marks)) in (0..).zip(self.partitions.iter_mut().zip(marks)) {
            let Some(marks) = *marks else { continue };
            if let Some((from, why)) = progress.surveyed(marks) {
                assigned.push(Assign { partition, from, why });
            }
        }
        assigned
    }

    /// Whether the record is the next. If not, it has been taken before, or its partition is not read.
    /// Offsets may be left out without anything missing: those of transactions' ends.
    pub(super) fn take(&mut self, partition: u32, offset: u64) -> bool {
        let progress = self.partitions.get_mut(partition as usize);
        let next = progress.and_then(|progress| progress.next.as_mut());
        let Some(next) = next.filter(|next| offset >= **next) else { return false };
        *next = offset + 1;
        true
    }

    /// The reader has found nothing where the partition is to be read next, and has stopped: the next
    /// look at its ends says where it goes on.
    pub(super) fn out_of_range(&mut self, partition: u32) {
        if let Some(progress) = self.partitions.get_mut(partition as usize) {
            progress.out_of_range = true;
        }
    }

    /// Whether the reader has stopped somewhere.
    pub(super) fn has_stopped(&self) -> bool {
        self.partitions.iter().any(|progress| progress.out_of_range)
    }

    /// Records that are there and not taken yet, as of the last look.
    pub(super) fn behind(&self, marks: &[Option<Watermarks>]) -> u64 {
        let of = |(progress, marks): (&Progress, &Option<Watermarks>)| {
            Some(marks.as_ref()?.high.saturating_sub(progress.next?))
        };
        self.partitions.iter().zip(marks).filter_map(of).sum()
    }
}

impl Progress {
    /// Where to read from, if not on from where it is.
    fn surveyed(&mut self, marks: Watermarks) -> Option<(u64, Why)> {
        let Some(next) = self.next else {
            let from = match self.begin {
                Begin::End => marks.high,
                Begin::Beginning => marks.low,
            };
            self.next = Some(from);
            return Some((from, Why::New));
        };
        if next <= marks.high && std::mem::take(&mut self.out_of_range) {
            let from = next.max(marks.low);
            self.next = Some(from);
            return Some((from, Why::OutOfRange { next }));
        }
        // A leader that is new may not know the end for a moment: it has to say so twice.
        let shrunk = self.asked_at.is_some_and(|next| marks.high < next);
        if !(shrunk && std::mem::replace(&mut self.shrunk, shrunk)) {
            self.shrunk = shrunk;
            return None;
        }
        self.shrunk = false;
        self.out_of_range = false;
        self.asked_at = None;
        self.next = Some(marks.low);
        Some((marks.low, Why::LostItsEnd))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks(low: u64, high: u64) -> Option<Watermarks> {
        Some(Watermarks { low, high })
    }

    fn begin(partition: u32, from: u64) -> Assign {
        Assign { partition, from, why: Why::New }
    }

    #[test]
    fn what_is_there_at_first_is_read_from_its_end_and_what_comes_later_from_its_beginning() {
        let mut positions = Positions::default();
        assert!(!positions.is_ready());
        assert_eq!(positions.surveyed(&[marks(3, 9), None]), [begin(0, 9)]);
        assert!(!positions.is_ready());
        assert_eq!((positions.next(0), positions.next(1)), (Some(9), None));
        let later = [marks(3, 9), marks(5, 8), marks(1, 4)];
        assert_eq!(positions.surveyed(&later), [begin(1, 8), begin(2, 1)]);
        assert!(positions.is_ready());
        assert_eq!(positions.partitions(), Some(3));
        assert!(positions.lacks(3) && !positions.lacks(2));
    }

    #[test]
    fn a_topic_that_was_not_there_is_read_from_its_beginning() {
        let mut positions = Positions::default();
        positions.missing();
        assert!(positions.is_ready());
        assert_eq!(positions.partitions(), None);
        assert_eq!(positions.surveyed(&[marks(0, 4)]), [begin(0, 0)]);
    }

    #[test]
    fn a_record_is_taken_once() {
        let mut positions = Positions::default();
        positions.surveyed(&[marks(0, 4)]);
        assert!(!positions.take(0, 3));
        assert!(positions.take(0, 4));
        assert!(!positions.take(0, 4));
        // The end of a transaction stood between.
        assert!(positions.take(0, 6));
        assert!(!positions.take(1, 0));
        assert_eq!(positions.behind(&[marks(2, 30)]), 23);
    }

    #[test]
    fn a_partition_whose_next_records_are_gone_is_read_from_its_beginning() {
        let mut positions = Positions::default();
        positions.surveyed(&[marks(0, 4), marks(0, 4)]);
        assert_eq!(positions.surveyed(&[marks(20, 30), None]), [], "the reader may have them");
        positions.out_of_range(0);
        assert!(positions.has_stopped());
        assert_eq!(positions.surveyed(&[None, marks(0, 4)]), [], "its leader did not say");
        let from_20 = Assign { partition: 0, from: 20, why: Why::OutOfRange { next: 4 } };
        assert_eq!(positions.surveyed(&[marks(20, 30), None]), [from_20]);
        assert!(!positions.has_stopped());
        assert_eq!(positions.surveyed(&[marks(20, 30), None]), [], "once");
        assert!(!positions.take(0, 19));
        assert!(positions.take(0, 20));
    }

    #[test]
    fn a_reader_that_has_stopped_for_nothing_goes_on_where_it_was() {
        let mut positions = Positions::default();
        positions.surveyed(&[marks(0, 4)]);
        positions.out_of_range(0);
        let why = Why::OutOfRange { next: 4 };
        assert_eq!(positions.surveyed(&[marks(2, 4)]), [Assign { partition: 0, from: 4, why }]);
    }

    #[test]
    fn a_topic_that_was_made_anew_is_read_from_its_beginning_once_that_is_certain() {
        let mut positions = Positions::default();
        positions.surveyed(&[marks(0, 100)]);
        positions.ask();
        assert_eq!(positions.surveyed(&[marks(0, 5)]), []);
        positions.ask();
        assert_eq!(positions.surveyed(&[marks(0, 100)]), []);
        positions.ask();
        assert_eq!(positions.surveyed(&[marks(0, 5)]), []);
        positions.ask();
        let again = Assign { partition: 0, from: 0, why: Why::LostItsEnd };
        assert_eq!(positions.surveyed(&[marks(0, 6)]), [again]);
        assert!(positions.take(0, 0));
    }

    #[test]
    fn a_reader_that_has_stopped_beyond_the_end_waits_until_that_is_certain() {
        let mut positions = Positions::default();
        positions.surveyed(&[marks(0, 100)]);
        positions.out_of_range(0);
        positions.ask();
        assert_eq!(positions.surveyed(&[marks(0, 5)]), []);
        assert!(positions.has_stopped());
        positions.ask();
        let again = Assign { partition: 0, from: 0, why: Why::LostItsEnd };
        assert_eq!(positions.surveyed(&[marks(0, 5)]), [again]);
        assert!(!positions.has_stopped());
    }

    #[test]
    fn an_answer_that_is_older_than_what_was_read_since_is_no_end_before_it() {
        let mut positions = Positions::default();
        positions.surveyed(&[marks(0, 100)]);
        for round in 0..3 {
            positions.ask();
            let end = 100 + round;
            assert!(positions.take(0, end));
            assert_eq!(positions.surveyed(&[marks(0, end)]), []);
        }
    }

    proptest! {
        #[test]
        fn every_offset_is_taken_at_most_once_and_in_order(
            offsets in proptest::collection::vec(0..50_u64, 0..100),
        ) {
            let mut positions = Positions::default();
            positions.surveyed(&[marks(0, 10)]);
            let mut last = 9;
            for offset in offsets {
                if positions.take(0, offset) {
                    prop_assert!(offset > last);
                    last = offset;
                }
            }
        }
    }
}
