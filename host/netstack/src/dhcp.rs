//! Answers DHCP (RFC 2131) for the one guest, which always gets the same address.

use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, Ipv4Cidr};

use crate::{GATEWAY, GUEST, PREFIX_BITS, RESOLVER};

/// Lease time in seconds: longer than a trial of an image.
const LEASE_SECONDS: u32 = 24 * 3600;

/// The reply to a message; `None` if it needs none or is invalid.
pub(crate) fn answer(message: &[u8]) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(message).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    let kind = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request => {
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            let ours = request.server_identifier.is_none_or(|server| server == GATEWAY);
            match wanted == GUEST || wanted.is_unspecified() {
                // The client chose the offer of another server, which cannot exist.
                _ if !ours => return None,
                true => DhcpMessageType::Ack,
                false => DhcpMessageType::Nak,
            }
        }
        _ => return None,
    };
    let granted = kind != DhcpMessageType::Nak;
    let lease = granted.then_some(LEASE_SECONDS);
    let reply = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: [0; 4].into(),
        your_ip: if granted { GUEST } else { [0; 4].into() },
        server_ip: GATEWAY,
        router: granted.then_some(GATEWAY),
        subnet_mask: granted.then(|| Ipv4Cidr::new(GUEST, PREFIX_BITS).netmask()),
        relay_agent_ip: [0; 4].into(),
        broadcast: true,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY),
        parameter_request_list: None,
        dns_servers: granted.then(|| [RESOLVER].into_iter().collect()),
        max_size: None,
        lease_duration: lease,
        renew_duration: lease.map(|seconds| seconds / 2),
        rebind_duration: lease.map(|seconds| seconds / 8 * 7),
        additional_options: &[],
    };
    let mut bytes = vec![0; reply.buffer_len()];
    reply.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).ok()?;
    Some(bytes)
}
