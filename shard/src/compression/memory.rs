//! The memory of coder and decoder: from the allocator, counted.

use std::cell::Cell;

use brotli::enc::BrotliAlloc;
use brotli::{Allocator, SliceWrapper, SliceWrapperMut};

/// Bytes taken for one message.
#[derive(Debug, Default)]
pub(super) struct Meter {
    live: Cell<usize>,
    peak: Cell<usize>,
    total: Cell<usize>,
}

impl Meter {
    /// All that was ever taken, which is about what was cleared.
    pub(super) fn total(&self) -> usize {
        self.total.get()
    }

    #[cfg(test)]
    pub(super) fn peak(&self) -> usize {
        self.peak.get()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Metered<'a>(pub(super) &'a Meter);

#[derive(Debug, Default)]
pub(super) struct Cells<T>(Box<[T]>);

impl<T> SliceWrapper<T> for Cells<T> {
    fn slice(&self) -> &[T] {
        &self.0
    }
}

impl<T> SliceWrapperMut<T> for Cells<T> {
    fn slice_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T: Clone + Default> Allocator<T> for Metered<'_> {
    type AllocatedMemory = Cells<T>;

    fn alloc_cell(&mut self, len: usize) -> Cells<T> {
        let Meter { live, peak, total } = self.0;
        let bytes = len * size_of::<T>();
        live.set(live.get() + bytes);
        peak.set(peak.get().max(live.get()));
        total.set(total.get() + bytes);
        Cells(vec![T::default(); len].into_boxed_slice())
    }

    fn free_cell(&mut self, cells: Cells<T>) {
        let bytes = size_of_val(cells.slice());
        self.0.live.set(self.0.live.get().saturating_sub(bytes));
    }
}

impl BrotliAlloc for Metered<'_> {}
