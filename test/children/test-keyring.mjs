// The keyring of a child process: the master keys of the environment, and tenants if TENANTS says so.
//
//   TENANTS=8      eight tenants, t0 to t7, by the last character of the user's id: as test/support/tenants.ts has them
//   TENANTS=none   tenantOf is given, and nobody has a tenant
import { masterKeyring, masterKeysFromEnv } from '../../dist/index.js'

export function testKeyring(env = process.env) {
  const { primary, previous } = masterKeysFromEnv(env)
  const { TENANTS } = env
  if (TENANTS === undefined) return masterKeyring({ primary, previous })
  const tenantOf =
    TENANTS === 'none' ? () => null : (userId) => `t${userId.charCodeAt(userId.length - 1) % Number(TENANTS)}`
  return masterKeyring({ primary, previous, tenantOf })
}
