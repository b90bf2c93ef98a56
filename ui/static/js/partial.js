// Forms whose parts are drawn by the server while they are edited: the rules of a policy, and its preview.
import { announce, fetchPage, replacePart } from './page.js'

export function partialForms (enhance) {
  for (const form of document.querySelectorAll('form[data-partial]')) {
    const send = async (edit, id = form.dataset.partial) => {
      const data = new URLSearchParams(new FormData(form))
      data.set('edit', edit)
      const part = document.getElementById(id)
      part.setAttribute('aria-busy', 'true')
      const { page, answer } = await fetchPage(form.action, { method: 'POST', body: data })
      const fresh = (answer.ok || answer.status === 422) && replacePart(part, page)
      if (!fresh) { location.reload(); return }
      enhance(fresh)
      if (id !== form.dataset.partial) announce(fresh.querySelector('.flash, h3 + p')?.textContent ?? '')
      if (edit.startsWith('add-')) [...fresh.querySelectorAll('.condition input')].at(-1)?.focus()
    }
    form.addEventListener('submit', event => {
      if (event.submitter?.name !== 'edit') return
      event.preventDefault()
      send(event.submitter.value, event.submitter.dataset.part)
    })
    form.addEventListener('change', event => {
      if (event.target.matches('[data-refresh], .rule-head select')) send('refresh')
    })
  }
}
