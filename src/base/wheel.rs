//! A timer wheel that is filed lazily: an item is looked at when its slot comes, and filed again if its time moved on.
//! Moving a deadline later therefore costs nothing at all, which is what a connection does on every advance.

use std::time::Duration;

use crate::base::clock::Tick;

/// Slots of the wheel; what lies further ahead waits in the last slot and is filed again.
const SLOTS: usize = 1024;

/// Items filed by the moment at which they want to be looked at.
#[derive(Debug)]
pub struct Wheel<T> {
    slots: Vec<Vec<T>>,
    spare: Vec<T>,
    slot_ns: u64,
    turned: u64, // slots already emptied since time 0
}

impl<T> Wheel<T> {
    /// A wheel whose slots are `slot` wide: an item is looked at no more than that after its time.
    pub fn new(slot: Duration) -> Self {
        let slot_ns = u64::try_from(slot.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), spare: Vec::new(), slot_ns, turned: 0 }
    }

    /// Files an item.
    pub fn file(&mut self, at: Tick, item: T) {
        let wanted = at.0.div_ceil(self.slot_ns);
        let slot = wanted.clamp(self.turned + 1, self.turned + SLOTS as u64 - 1);
        if let Some(slot) = self.slots.get_mut(slot as usize % SLOTS) {
            slot.push(item);
        }
    }

    /// Looks at every item whose slot has come by `now`. `look` gives back the time at which it is due later, or `None`
    /// when the wheel shall forget it.
    pub fn turn(&mut self, now: Tick, mut look: impl FnMut(&mut T) -> Option<Tick>) {
        let reached = now.0 / self.slot_ns;
        if reached.saturating_sub(self.turned) >= SLOTS as u64 {
            self.turned = reached - SLOTS as u64; // slept through a whole turn: every slot is due once
        }
        while self.turned < reached {
            self.turned += 1;
            let at = self.turned as usize % SLOTS;
            let Some(slot) = self.slots.get_mut(at) else { return };
            let mut due = std::mem::replace(slot, std::mem::take(&mut self.spare));
            for mut item in due.drain(..) {
                if let Some(later) = look(&mut item) {
                    self.file(later, item);
                }
            }
            self.spare = due;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn due(wheel: &mut Wheel<u32>, at_ms: u64) -> Vec<u32> {
        let mut seen = Vec::new();
        wheel.turn(Tick(at_ms * MS), |item| {
            seen.push(*item);
            None
        });
        seen.sort_unstable();
        seen
    }

    #[test]
    fn items_come_in_their_slot_and_once() {
        let mut wheel = Wheel::new(Duration::from_millis(10));
        wheel.file(Tick(25 * MS), 1);
        wheel.file(Tick(100 * MS), 2);
        wheel.file(Tick(3_600_000 * MS), 3);
        assert!(due(&mut wheel, 20).is_empty());
        assert_eq!(due(&mut wheel, 30), [1]);
        assert_eq!(due(&mut wheel, 200), [2]);
        assert!(due(&mut wheel, 201).is_empty());
    }

    #[test]
    fn a_moved_item_is_filed_again() {
        let mut wheel = Wheel::new(Duration::from_millis(10));
        wheel.file(Tick(10 * MS), 7);
        let mut looks = 0;
        for now in 1..100 {
            wheel.turn(Tick(now * 10 * MS), |_| {
                looks += 1;
                (now < 50).then_some(Tick(500 * MS))
            });
        }
        assert_eq!(looks, 2, "once when filed, once when due");
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let mut wheel = Wheel::new(Duration::from_millis(1));
        for item in 0..1000 {
            wheel.file(Tick(u64::from(item) * MS), item);
        }
        assert_eq!(due(&mut wheel, 1_000_000).len(), 1000);
    }
}
