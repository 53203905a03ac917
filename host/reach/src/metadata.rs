//! The services that clouds offer to their machines at fixed addresses: instance metadata,
//! credentials of roles, and hypervisor agents.
//!
//! They answer every request from the machine, so a build script that reaches them acts with the
//! rights of the machine on which vbuild runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The addresses of one provider's service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataService {
    /// The provider.
    pub provider: &'static str,
    /// A single address, or the range that the provider reserves.
    pub addresses: IpNet,
    /// The provider's documentation.
    pub source: &'static str,
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), 32))
}

const fn v6(segments: [u16; 8], bits: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), bits))
}

const fn service(
    provider: &'static str,
    addresses: IpNet,
    source: &'static str,
) -> MetadataService {
    MetadataService { provider, addresses, source }
}

/// The table of services. Most IPv4 addresses are in 169.254.0.0/16, which is refused as link-local
/// anyway; they are listed for completeness.
pub const METADATA_SERVICES: &[MetadataService] = &[
    service(
        "AWS, Azure, Google Cloud, Oracle Cloud, OpenStack, IBM Cloud, Huawei Cloud, DigitalOcean, \
         Hetzner, Vultr, Akamai, Exoscale, UpCloud, OVHcloud",
        v4(169, 254, 169, 254),
        "the provider's page on instance metadata; cloud-init, Datasources",
    ),
    service(
        "AWS ECS",
        v4(169, 254, 170, 2),
        "Amazon ECS Developer Guide, Task IAM role (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI)",
    ),
    service(
        "AWS EKS",
        v4(169, 254, 170, 23),
        "Amazon EKS User Guide, Set up the EKS Pod Identity Agent",
    ),
    service(
        "AWS",
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
        "Amazon EC2 User Guide, Use the Instance Metadata Service (fd00:ec2::254); Amazon VPC User \
         Guide (fd00:ec2::253 and ::123); Amazon EKS User Guide (fd00:ec2::23)",
    ),
    service(
        "Azure",
        v4(168, 63, 129, 16),
        "Azure Virtual Network documentation, What is IP address 168.63.129.16?",
    ),
    service(
        "Google Cloud",
        v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
        "Compute Engine documentation, About VM metadata (IPv6-only instances)",
    ),
    service(
        "Oracle Cloud",
        v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
        "Oracle Cloud Infrastructure documentation, Getting Instance Metadata",
    ),
    service(
        "Oracle Cloud Infrastructure Classic",
        v4(192, 0, 0, 192),
        "Oracle Cloud Infrastructure Compute Classic documentation, Retrieving Instance Metadata",
    ),
    service(
        "Alibaba Cloud",
        v4(100, 100, 100, 200),
        "Alibaba Cloud ECS documentation, Instance metadata",
    ),
    service(
        "Alibaba Cloud",
        v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200], 128),
        "Alibaba Cloud ECS documentation, Instance metadata (IPv6)",
    ),
    service("Tencent Cloud", v4(169, 254, 0, 23), "Tencent Cloud CVM documentation, Metadata"),
    service(
        "Volcengine, BytePlus",
        v4(100, 96, 0, 96),
        "Volcengine ECS documentation, Instance metadata",
    ),
    service("UCloud", v4(100, 80, 80, 80), "UCloud UHost documentation, Metadata server"),
    service("Scaleway", v4(169, 254, 42, 42), "cloud-init, Datasources, Scaleway"),
    service(
        "Scaleway",
        v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
        "cloud-init, Datasources, Scaleway",
    ),
    service(
        "Akamai",
        v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128),
        "cloud-init, Datasources, Akamai",
    ),
    service(
        "OpenStack, Akamai",
        v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
        "OpenStack Neutron documentation, Metadata service over IPv6",
    ),
    service("Equinix Metal", v4(192, 80, 8, 124), "Packet developer documentation, Metadata"),
];

/// Whether the table contains this address.
pub(crate) fn is_metadata_service(address: IpAddr) -> bool {
    METADATA_SERVICES.iter().any(|service| service.addresses.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reach, reach};

    #[test]
    fn every_service_is_refused_as_such_also_when_an_address_carries_it() {
        for service in METADATA_SERVICES {
            let address = service.addresses.addr();
            assert_eq!(reach(address), Reach::Metadata, "{service:?}");
            if let IpAddr::V4(v4) = address {
                for carrier in [v4.to_ipv6_mapped(), v4.to_ipv6_compatible()] {
                    assert_eq!(reach(carrier.into()), Reach::Metadata, "{carrier}");
                }
            }
            assert!(!service.source.is_empty() && !service.provider.is_empty());
        }
    }

    #[test]
    fn azures_wire_server_is_not_a_public_address() {
        assert_eq!(reach("168.63.129.16".parse().unwrap()), Reach::Metadata);
        assert_eq!(reach("fd00:ec2::23".parse().unwrap()), Reach::Metadata);
        assert_eq!(reach("fd00:ec3::254".parse().unwrap()), Reach::Private);
    }
}
