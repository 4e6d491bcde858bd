// The classes V3Key and V2Key.
#pragma once
#include <node_api.h>

#include "core.h"

namespace keystore {

// Each leaves an exception pending where it returns null.
napi_value DefineV3Key(napi_env env, Core* core);
napi_value DefineV2Key(napi_env env, Core* core);

}  // namespace keystore
