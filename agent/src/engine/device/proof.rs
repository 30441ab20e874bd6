//! Proof of life: what makes a QoS 0 message count as acknowledged.
//!
//! Nobody confirms such a message, but TCP keeps the order: an answer to a later PINGREQ, or our own
//! clean end, shows that the connection carried all before it. What a cut connection leaves unproved
//! is never claimed to have been lost by the platform.

use shoal_domain::receipts::Run;

use super::super::core::Core;
use super::Device;
use crate::recorder::Passage;

/// How far a series without acknowledgements is proved.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// Numbers before this one are proved, or will never be.
    through: u32,
    /// Numbers before this one were sent when the open PINGREQ was.
    asked: u32,
}

impl Device {
    /// One of its messages, for receipts.
    pub(super) fn numbered(&self, n: u32) -> Run {
        Run::one(self.index as u32, self.incarnation, n)
    }

    /// A PINGREQ leaves.
    pub(super) fn asked_for_life(&mut self) {
        for stream in &mut self.streams {
            stream.proof.asked = stream.n;
        }
    }

    /// Its PINGRESP has come.
    pub(super) fn lives(&mut self, core: &Core) {
        self.prove(core, |proof, _| proof.asked);
    }

    /// The connection ends cleanly.
    pub(super) fn ended_cleanly(&mut self, core: &Core) {
        self.prove(core, |_, n| n);
    }

    /// The connection was cut.
    pub(super) fn never_proved(&mut self) {
        for stream in &mut self.streams {
            stream.proof = Proof { through: stream.n, asked: stream.n };
        }
    }

    fn prove(&mut self, core: &Core, until: impl Fn(&Proof, u32) -> u32) {
        let device = self.numbered(0);
        let sends = core.plan.groups[self.group].sends();
        for (send, stream) in sends.iter().zip(&mut self.streams) {
            let (first, until) = (stream.proof.through, until(&stream.proof, stream.n));
            stream.proof.through = first.max(until);
            if send.is_acknowledged() || until <= first {
                continue;
            }
            let run = Run { first, count: until - first, ..device };
            core.recorder.borrow_mut().number(send.series, Passage::Acked, run);
        }
    }
}
