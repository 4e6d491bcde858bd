/** Roles of a Postgres server that a test makes, with rights of its choice. */
import { randomBytes } from 'node:crypto'
import { asAdmin } from './databases.js'

export interface FreshRole {
  readonly name: string
  /** The database as this role connects to it. */
  readonly url: string
  remove(): Promise<void>
}

/** Makes a role that may log in. @param rights statements that give it rights, ROLE in them being its name */
export async function freshRole(
  url: string,
  rights: readonly string[],
  password = randomBytes(12).toString('hex'),
): Promise<FreshRole> {
  const name = `test_role_${randomBytes(6).toString('hex')}`
  await asAdmin(
    url,
    `create role ${name} login password '${password}'`,
    ...rights.map((statement) => statement.replaceAll('ROLE', name)),
  )
  const roleUrl = new URL(url)
  roleUrl.username = name
  roleUrl.password = password
  return {
    name,
    url: roleUrl.href,
    remove: () => asAdmin(url, `drop owned by ${name}`, `drop role ${name}`),
  }
}
