//! diskimage-builder elements, lowered to a plan.
