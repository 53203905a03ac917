//! vmdb2 specs, lowered to a plan.
