//! The places of open calls: a slab whose ids do not repeat.

use super::call::{CallId, Request, Returned};
use super::line::NONE;

#[derive(Debug)]
pub(super) enum Stage<P, A> {
    Free,
    Waiting(P),
    Running,
    /// Answered, waiting for its turn; with its size.
    Held(A, usize),
    /// Answered with a code and no payload, waiting for its turn.
    Failed(u8),
}

impl<P, A> Stage<P, A> {
    pub(super) fn is_answered(&self) -> bool {
        matches!(self, Self::Held(..) | Self::Failed(_))
    }
}

#[derive(Debug)]
pub(super) struct Entry<P, A> {
    pub(super) call: Request,
    pub(super) stage: Stage<P, A>,
    pub(super) line: u16,
    /// The call behind this one in its line; the next free place while free.
    pub(super) next: u16,
    generation: u32,
}

impl<P, A> Entry<P, A> {
    pub(super) fn new(call: Request, line: u16, stage: Stage<P, A>) -> Self {
        Self { call, stage, line, next: NONE, generation: 0 }
    }
}

#[derive(Debug)]
pub(super) struct Places<P, A> {
    entries: Vec<Entry<P, A>>,
    free: u16,
    occupied: usize,
}

impl<P, A> Places<P, A> {
    pub(super) fn with_capacity(places: usize) -> Self {
        Self { entries: Vec::with_capacity(places), free: NONE, occupied: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn occupied(&self) -> usize {
        self.occupied
    }

    pub(super) fn id(&self, index: u16) -> CallId {
        CallId::new(index, self[index].generation)
    }

    /// The place of the call, if it has not ended.
    pub(super) fn find(&self, id: CallId) -> Option<u16> {
        let entry = self.entries.get(usize::from(id.index()))?;
        let open = !matches!(entry.stage, Stage::Free) && entry.generation == id.generation();
        open.then_some(id.index())
    }

    pub(super) fn occupy(&mut self, mut entry: Entry<P, A>) -> u16 {
        self.occupied += 1;
        if self.free == NONE {
            self.entries.push(entry);
            return (self.entries.len() - 1) as u16;
        }
        let index = self.free;
        let place = &mut self[index];
        entry.generation = place.generation;
        let next_free = place.next;
        *place = entry;
        self.free = next_free;
        index
    }

    /// Frees the place and returns the line that its call was in.
    pub(super) fn free(&mut self, index: u16) -> u16 {
        let next_free = std::mem::replace(&mut self.free, index);
        self.occupied -= 1;
        let place = &mut self[index];
        place.stage = Stage::Free;
        place.generation = CallId::next_generation(place.generation);
        place.next = next_free;
        place.line
    }

    /// Calls that wait or run.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (u16, &Entry<P, A>)> {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let open = matches!(entry.stage, Stage::Waiting(_) | Stage::Running);
            open.then_some((index as u16, entry))
        })
    }

    pub(super) fn clear(&mut self, each: &mut impl FnMut(Returned<P, A>)) {
        for index in 0..self.entries.len() as u16 {
            let id = self.id(index);
            match std::mem::replace(&mut self[index].stage, Stage::Free) {
                Stage::Free => continue,
                Stage::Waiting(payload) => each(Returned::Request(payload)),
                Stage::Running => each(Returned::Running(id)),
                Stage::Held(answer, _) => each(Returned::Answer(answer)),
                Stage::Failed(_) => {}
            }
            self.free(index);
        }
    }
}

impl<P, A> std::ops::Index<u16> for Places<P, A> {
    type Output = Entry<P, A>;

    fn index(&self, index: u16) -> &Entry<P, A> {
        &self.entries[usize::from(index)]
    }
}

impl<P, A> std::ops::IndexMut<u16> for Places<P, A> {
    fn index_mut(&mut self, index: u16) -> &mut Entry<P, A> {
        &mut self.entries[usize::from(index)]
    }
}
