// Format v2, the Python reference's: AES-256-GCM under the key itself, bound to nothing.
#include <cstring>

#include "key_object.h"
#include "keys.h"
#include "tokens.h"
#include "wraps.h"

namespace keystore {
namespace {

constexpr Bytes kNoAad = {nullptr, 0};

class V2Key {
 public:
  bool Begin(Core* core, const uint8_t* key) { return gcm_.Begin(core->gcm(), key); }

  // `sealed` is `nonce[12] || plaintext || tag[16]`, the plaintext to be encrypted in place.
  Outcome Seal(const uint8_t* nonce, uint8_t* sealed, size_t length) {
    std::memcpy(sealed, nonce, kGcmNonceBytes);
    uint8_t* const text = sealed + kGcmNonceBytes;
    return gcm_.Seal(nullptr, sealed, kNoAad, text, length, text + length);
  }

  Outcome Open(uint8_t* sealed, size_t length) {
    uint8_t* const text = sealed + kGcmNonceBytes;
    return gcm_.Open(nullptr, sealed, kNoAad, text, length, text + length);
  }

 private:
  Gcm gcm_;
};

using Object = KeyObject<V2Key>;

// `sealToken(plaintext)`
napi_value SealV2Token(napi_env env, napi_callback_info info) {
  Call<1> call;
  if (!call.Read(env, info)) return nullptr;
  Object* const self = Object::Of(env, call.self);
  if (self == nullptr) return nullptr;
  const uint8_t* const nonce = self->core->TakeNonce(env, kGcmNonceBytes);
  if (nonce == nullptr) return nullptr;
  return SealToken(env, self->core, kV2Layout, call.arguments[0],
                   [&](uint8_t* bytes, size_t length) { return self->key.Seal(nonce, bytes, length); });
}

napi_value OpenV2Token(napi_env env, napi_callback_info info, As as) {
  Call<2> call;
  if (!call.Read(env, info)) return nullptr;
  Object* const self = Object::Of(env, call.self);
  if (self == nullptr) return nullptr;
  return OpenToken(env, self->core, kV2Layout, call.arguments[0], call.arguments[1], as,
                   [&](uint8_t* bytes, size_t length) { return self->key.Open(bytes, length); });
}

// `openToken(token, ticket)`
napi_value OpenV2TokenBytes(napi_env env, napi_callback_info info) { return OpenV2Token(env, info, As::kBytes); }
// `openTokenText(token, ticket)`
napi_value OpenV2TokenText(napi_env env, napi_callback_info info) { return OpenV2Token(env, info, As::kText); }

// `wrap(key)`
napi_value WrapV2(napi_env env, napi_callback_info info) {
  Call<1> call;
  if (!call.Read(env, info)) return nullptr;
  Object* const self = Object::Of(env, call.self);
  if (self == nullptr) return nullptr;
  const uint8_t* const nonce = self->core->TakeNonce(env, kGcmNonceBytes);
  if (nonce == nullptr) return nullptr;
  return WrapKey<kGcmNonceBytes, kV2Overhead>(
      env, call.arguments[0], [&](uint8_t* bytes, size_t length) { return self->key.Seal(nonce, bytes, length); });
}

// `unwrap(wrapped)`: 32 bytes, or null
napi_value UnwrapV2(napi_env env, napi_callback_info info) {
  Call<1> call;
  if (!call.Read(env, info)) return nullptr;
  Object* const self = Object::Of(env, call.self);
  if (self == nullptr) return nullptr;
  return UnwrapKey<kGcmNonceBytes, kV2Overhead>(
      env, call.arguments[0], [&](uint8_t* bytes, size_t length) { return self->key.Open(bytes, length); });
}

}  // namespace

napi_value DefineV2Key(napi_env env, Core* core) {
  const napi_property_descriptor methods[] = {
      {"sealToken", nullptr, SealV2Token, nullptr, nullptr, nullptr, napi_default_method, core},
      {"openToken", nullptr, OpenV2TokenBytes, nullptr, nullptr, nullptr, napi_default_method, core},
      {"openTokenText", nullptr, OpenV2TokenText, nullptr, nullptr, nullptr, napi_default_method, core},
      {"wrap", nullptr, WrapV2, nullptr, nullptr, nullptr, napi_default_method, core},
      {"unwrap", nullptr, UnwrapV2, nullptr, nullptr, nullptr, napi_default_method, core},
  };
  napi_value made = nullptr;
  if (napi_define_class(env, "V2Key", NAPI_AUTO_LENGTH, Object::Construct, core, sizeof(methods) / sizeof(*methods),
                        methods, &made) != napi_ok)
    Throw(env, "the class V2Key cannot be made");
  return made;
}

}  // namespace keystore
