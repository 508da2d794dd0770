//! Types of a checked configuration, by topic.

mod admin;
mod auth;
mod bodies;
mod cache;
mod conditions;
mod discovery;
mod gateway;
mod health;
mod listener;
mod openapi;
mod overload;
mod pool;
mod process;
mod route;
mod sticky;
mod throttle;
mod tls;

pub(super) use self::pool::UNIX;
pub use self::{
    admin::{Admin, AdminRemote, AdminSocket},
    auth::{
        ApiKey, ApiKeysConfig, AuthConfig, BasicConfig, ClientSecretPlace, ForwardAuthConfig,
        JWT_ALGORITHMS, JwtAlgorithm, JwtConfig, KeySource, OidcConfig, RequireConfig,
        SessionAuthConfig, TokenPlace,
    },
    bodies::{
        BodyChange, CompressConfig, ContentCoding, DecompressConfig, FilesConfig, TransformConfig,
    },
    cache::{CacheConfig, CacheDiskConfig, CacheStoreConfig},
    conditions::{CertificateCondition, OperationCondition, RouteConditions, TextCondition},
    discovery::{BackendSource, Dns, HttpSource},
    gateway::{
        AddressRules, CorsConfig, FilterConfig, HeaderEdits, MaintenanceConfig, OriginPattern,
        OriginPatterns, OriginRules, PathRewrite, RedirectConfig, RespondConfig, RewriteConfig,
    },
    health::{HealthConfig, Outlier, ProbeConfig},
    listener::{ListenerConfig, ListenerProtocol, PassthroughConfig, ProxyIn, Redirect},
    openapi::{ApiDescription, OpenApiConfig},
    overload::{Admission, Limits, Rate, RebalanceConfig},
    pool::{Address, BackendConfig, Balance, HeaderLimits, PoolConfig, Reuse, Timeouts},
    process::{
        AccessLogConfig, DrainConfig, Forwarded, ProcessLimits, Reload, SharedKeys, Upgrade,
    },
    route::{HostPattern, MirrorConfig, RouteConfig, RouteTimeouts, RouteTo, SplitPool},
    sticky::{Cookie, SameSite, SessionsConfig, SetOn, Sticky},
    throttle::{Counted, LimitConfig, LimitFields, LimitKey, MessagesConfig, Quota},
    tls::{
        Acme, BackendTls, Certificate, CertificateSource, ClientAuth, TlsConfig, TlsVersion,
        UnknownSni, suite_name,
    },
};
