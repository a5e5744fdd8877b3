// Signs CSRs as the original does. Each line on the standard input is a loop to
// run; each is answered by a line on the standard output.
const fs = require('fs')
const pem = require('pem')

const serviceCertificate = fs.readFileSync(process.argv[2], 'utf8')
const serviceKey = fs.readFileSync(process.argv[3], 'utf8')
let serial = Date.now()

const sign = (csr) => new Promise((resolve, reject) => {
  pem.createCertificate({csr, days: 365, serial: ++serial, serviceKey, serviceCertificate},
    (err, made) => err ? reject(err) : resolve(made.certificate))
})

async function loop({workers, ms, csrs}) {
  const begun = performance.now()
  const done = [], certs = []
  let next = 0
  const worker = async () => {
    while (performance.now() - begun < ms) {
      const at = next++, start = performance.now()
      certs[at] = await sign(csrs[at % csrs.length])
      done.push(performance.now() - start)
    }
  }
  await Promise.all(Array.from({length: workers}, worker))
  return {ms: performance.now() - begun, done, certs}
}

require('readline').createInterface({input: process.stdin}).on('line', async (line) => {
  let told
  try { told = await loop(JSON.parse(line)) } catch (err) { told = {error: String(err)} }
  process.stdout.write(JSON.stringify(told) + '\n')
})
